"""Commands that are killed at random moments and run again until they end: the result must be that of one quiet run.

    python -m tests.kills                              # 20 kills of each verb
    python -m tests.kills --verb train --case 7        # one case again

`commands.py` holds the commands and says what of their results is compared; `runner.py` kills and compares.
"""
