# SPDX-License-Identifier: Apache-2.0
"""What completes the command line in bash, zsh and fish.

A script knows all words beforehand: on a slow box a program start for each press of Tab would
be felt. Each finds the command and verb among the words before, and offers what may follow.
"""

from collections.abc import Callable, Iterator

from edgepaas.cli.command_tree import Node, Option

#: Longest text beside a word, so that a row of a list fits on a terminal.
_LONGEST_HELP = 70

_BASH = """\
# bash completion of edgepaas; made by 'edgepaas completion bash'

_edgepaas() {{
    local -A words=(
{words}
    )
    local -A values=(
{values}
    )
    local path= index word
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        if [[ -n ${{words[${{path:+$path }}$word]+there}} ]]; then
            path=${{path:+$path }}$word
        elif [[ -z $path && $word != -* ]]; then
            COMPREPLY=()
            return
        fi
    done
    local before=${{COMP_WORDS[COMP_CWORD - 1]}} current=${{COMP_WORDS[COMP_CWORD]}}
    if [[ -n ${{values[$path:$before]+there}} ]]; then
        COMPREPLY=($(compgen -W "${{values[$path:$before]}}" -- "$current"))
    else
        COMPREPLY=($(compgen -W "${{words[${{path:- }}]}}" -- "$current"))
    fi
}}

complete -o default -F _edgepaas edgepaas
"""

_ZSH = """\
#compdef edgepaas
# zsh completion of edgepaas; made by 'edgepaas completion zsh'

_edgepaas() {{
    local -A known=({known})
    local route= word
    for word in ${{words[2,CURRENT-1]}}; do
        if [[ -n ${{known[${{route:+$route }}$word]}} ]]; then
            route=${{route:+$route }}$word
        elif [[ -z $route && $word != -* ]]; then
            return 1
        fi
    done
    case "$route:${{words[CURRENT-1]}}" in
{values}
    esac
    local -a offered
    case "$route" in
{words}
    esac
    (( $#offered )) && _describe 'edgepaas' offered
}}

if [ "$funcstack[1]" = "_edgepaas" ]; then
    _edgepaas "$@"
else
    compdef _edgepaas edgepaas
fi
"""

_FISH = """\
# fish completion of edgepaas; made by 'edgepaas completion fish'

function __edgepaas_at --description 'Whether the words so far lead to this command'
    set -l known {known}
    set -l route
    for word in (commandline -opc)[2..]
        set -l longer (string join ' ' $route $word)
        if contains -- $longer $known
            set route $longer
        else if test -z "$route"; and not string match -q -- '-*' $word
            return 1
        end
    end
    test "$route" = "$argv[1]"
end

complete -c edgepaas -f
{words}
"""


def completion_script(shell: str, tree: Node) -> str:
    """Return the script for *shell*, one of SHELLS."""
    return _RENDERERS[shell](tree)


def _bash(tree: Node) -> str:
    words = [
        f"        [{_quoted(' '.join(path) or ' ')}]={_quoted(' '.join(_offered(node)))}"
        for path, node in tree.walk()
    ]
    values = [
        f"        [{_quoted(f'{route}:{name}')}]={_quoted(' '.join(option.choices))}"
        for route, option in _with_values(tree)
        for name in option.names
    ]
    return _BASH.format(words="\n".join(words), values="\n".join(values))


def _zsh(tree: Node) -> str:
    words = [
        f"    {_quoted(' '.join(path))}) offered=("
        + " ".join(_described(word, text) for word, text in _offered(node).items())
        + ") ;;"
        for path, node in tree.walk()
    ]
    values = [
        "    "
        + "|".join(_quoted(f"{route}:{name}") for name in option.names)
        + (
            f") compadd -- {' '.join(map(_quoted, option.choices))}"
            if option.choices
            else ") _files"
        )
        + "; return ;;"
        for route, option in _with_values(tree)
    ]
    known = " ".join(f"{_quoted(' '.join(path))} 1" for path, _ in tree.walk() if path)
    return _ZSH.format(known=known, words="\n".join(words), values="\n".join(values))


def _described(word: str, text: str) -> str:
    """Return *word* and its text as zsh's _describe takes them: a colon parts the two."""
    return _quoted(f"{word.replace(':', chr(92) + ':')}:{text}" if text else word)


def _fish(tree: Node) -> str:
    lines = []
    for path, node in tree.walk():
        at = f'complete -c edgepaas -n "__edgepaas_at {_quoted(" ".join(path))}"'
        lines += [
            f"{at} -a {_quoted(one.name)} -d {_quoted(_short(one.help))}"
            for one in node.below.values()
        ]
        if node.choices:
            lines.append(f"{at} -a {_quoted(' '.join(node.choices))}")
        for option in node.options:
            names = " ".join(_fish_name(name) for name in option.names)
            value = ""
            if option.takes_value:
                value = (
                    f" -x -a {_quoted(' '.join(option.choices))}" if option.choices else " -r -F"
                )
            lines.append(f"{at} {names}{value} -d {_quoted(_short(option.help))}")
    known = " ".join(_quoted(" ".join(path)) for path, _ in tree.walk() if path)
    return _FISH.format(known=known, words="\n".join(lines))


def _fish_name(name: str) -> str:
    return f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"


def _offered(node: Node) -> dict[str, str]:
    """Return the words that may follow *node*, and what each of them does."""
    words = {name: _short(one.help) for name, one in node.below.items()}
    words |= dict.fromkeys(node.choices, "")
    for option in node.options:
        words |= dict.fromkeys(option.names, _short(option.help))
    return words


def _with_values(tree: Node) -> Iterator[tuple[str, Option]]:
    """Yield each option that takes a value, with the words that lead to its command."""
    for path, node in tree.walk():
        for option in node.options:
            if option.takes_value:
                yield " ".join(path), option


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_HELP else line[: _LONGEST_HELP - 1].rstrip() + "…"


def _quoted(text: str) -> str:
    """Return *text* as one word of any of the shells; an apostrophe becomes a typographic one.

    Shells differ in how they write an apostrophe within apostrophes, and no word has one.
    """
    return "'" + text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}") + "'"


_RENDERERS: dict[str, Callable[[Node], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
#: The shells that there is a script for.
SHELLS = tuple(_RENDERERS)
