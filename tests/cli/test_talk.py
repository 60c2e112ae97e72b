def test_x(checkpoint, question, run, tmp_path):
    for a in ([question,"--out",tmp_path/"reply.wav"],[question,"--out",tmp_path/"reply.wav","--json"],[question,"--out",tmp_path/"reply.wav","--stream"],["--text","hello","--task","tts"]):
        r=run("talk",*a,"--model",checkpoint)
        print(r)
        assert r.code==0
    print(run("info",checkpoint).out)
    assert 0
