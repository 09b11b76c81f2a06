"""The command ``undertow``: the commands, and how errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from undertow.cli.app import app
from undertow.cli.libraries import quiet_libraries
from undertow.errors import UndertowError
from undertow.files import FORBIDDEN, FULL
from undertow.runs.option_names import nearest
from undertow.wording.visible import visible

INTERRUPTED = "interrupted. Run the same command again to go on where it stopped."

# ClickException: typer carries its own copy of click in some versions and uses the installed one in others.
_CLICK_ERRORS: tuple[Any, ...] = typer.BadParameter.__mro__[2:3]
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong input or command line, 130 interrupted, 1 anything else."""
    from undertow.cli.commands import audit, compare, demo, explain, filter, forecast, simulate, train, view  # noqa: F401  (each registers on ``app``)

    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    try:
        with quiet_libraries():
            result = typer.main.get_command(app).main(args=arguments, prog_name="undertow", standalone_mode=False)
        code = result if isinstance(result, int) else 0  # typer turns Ctrl-C into this result
        return _fail(INTERRUPTED, code) if code == _INTERRUPTED else code
    except UndertowError as error:
        return _fail(str(error), error.exit_code)
    except _CLICK_ERRORS as error:
        return _refuse(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(INTERRUPTED, _INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `undertow … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in FULL | FORBIDDEN:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{os.strerror(error.errno or 0)}{where}. Make room or give another place, and run it again.", 2)


def _refuse(error: Any) -> int:
    """A command line that cannot be parsed: what is wrong, and where help is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message())
        return 2
    context = getattr(error, "ctx", None)
    usage = f"\n{context.get_usage()}\n{context.command_path} --help tells more." if context else ""
    return _fail((_did_you_mean(error) or error.format_message()) + usage, error.exit_code)


def _did_you_mean(error: Any) -> str | None:
    """For an option that the command lacks: the one that was probably meant; None where none comes near."""
    name, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if not name or not context or type(error).__name__ != "NoSuchOption":
        return None
    options = {
        option.lstrip("-").replace("-", "_"): option for param in context.command.params for option in param.opts
    }
    meant = nearest(name.lstrip("-"), options)
    return f"{error.message}. Did you mean {options[meant]}?" if meant else None


def _fail(message: str, code: int) -> int:
    print(f"undertow: {visible(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
