"""``dskd completion bash`` and ``zsh``: a script that completes commands, options and file names.

The commands stand in the script; a command's options are asked of its ``--help`` when they are wanted.
"""

from __future__ import annotations

import argparse

from dskd.__main__ import COMMANDS
from dskd.runtime.errors import CallError, Parser, exit_with_code

EXAMPLES = """examples:
  dskd completion bash >> ~/.bashrc
  dskd completion zsh >> ~/.zshrc"""
SCRIPT = """_dskd() {
    local word="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "COMMANDS" -- "$word"))
    elif [ "${word#-}" != "$word" ]; then
        COMPREPLY=($(compgen -W "$(dskd "$command" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*' | sort -u)" -- "$word"))
    fi
}
complete -o default -F _dskd dskd
"""
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(
        prog="dskd completion", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("shell", help="bash or zsh")
    chosen = options.parse_args(arguments)
    if chosen.shell not in ("bash", "zsh"):
        raise CallError(f"there is no completion for {chosen.shell}; bash and zsh have one")
    script = SCRIPT.replace("COMMANDS", " ".join(COMMANDS))
    print(ZSH + script if chosen.shell == "zsh" else script, end="")
    return 0


if __name__ == "__main__":
    exit_with_code(main)
