"""Renders chat templates in a process of its own, with limits on memory and time; run as a script by `templates`.

Jinja's sandbox keeps a template from files and code, but not from loops without end or from huge strings, and neither
can be stopped from within the process that renders it.
"""

import json
import signal
import sys
from contextlib import suppress


CPU_SECONDS = 2.0
CPU_SECONDS_PER_PROMPT = 0.05
MEMORY = 1 << 29  # bytes, beyond what is used before the first template
MAX_CHARACTERS = 10_000_000


def limit_memory() -> None:
    """Limits the memory of this process, where the system can."""
    try:
        import resource
    except ImportError:
        return
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Answers each line of standard input, the arguments of `render_jinja_template`, with a line of JSON."""
    # The folder of this script, whose modules must not take the place of others of the same name.
    sys.path.pop(0)
    from transformers.utils.chat_template_utils import render_jinja_template

    # A system without these limits still has that of time.
    with suppress(OSError, ValueError):
        limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        arguments = json.loads(line)
        # Seconds of computation, so that a busy machine makes no difference; the process dies of the signal.
        if hasattr(signal, "setitimer"):
            seconds = CPU_SECONDS + CPU_SECONDS_PER_PROMPT * len(arguments["conversations"])
            signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            prompts, _ = render_jinja_template(**arguments)
            if sum(map(len, prompts)) > MAX_CHARACTERS:
                raise ValueError(f"it writes more than {MAX_CHARACTERS} characters")
            answer = json.dumps({"prompts": prompts})
        except MemoryError:
            answer = json.dumps({"error": "it takes too much memory"})
        except Exception as error:
            answer = json.dumps({"error": " ".join(str(error).split())[:300] or type(error).__name__})
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
