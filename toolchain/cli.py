"""The `optc` program: finds the command, and turns failures into one line and an exit code."""

import contextlib
import difflib
import importlib
import importlib.metadata
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import click

from toolchain.errors import OptcError

COMMANDS = {
    "inspect": ("toolchain.commands.inspect", "Show what a model is made of and what it costs."),
    "passes": ("toolchain.commands.passes", "List the compression passes and their options."),
    "transform": ("toolchain.commands.transform", "Compress a model and check the result."),
    "compare": ("toolchain.commands.compare", "Compare the outputs, or layers, of two models."),
    "eval": ("toolchain.commands.evaluate", "Score a classifier on labelled data."),
    "bench": ("toolchain.commands.bench", "Time models side by side."),
    "export": ("toolchain.commands.export", "Turn a torch module into a model, and check it."),
    "join": ("toolchain.commands.join", "Make one model of two that share an interface."),
    "split": ("toolchain.commands.split", "Take the parts of a joined model out again."),
    "simulate": ("toolchain.commands.simulate", "Simulate a model on accelerators."),
    "train": ("toolchain.commands.train", "Train for compression as a recipe says."),
    "build-ops": ("toolchain.commands.build_ops", "Build the native operator library."),
}
"""Module and summary by command; a module is imported when its command is called."""

TRACEBACK_FLAG = "--traceback"
TRACEBACK_VARIABLE = "OPTC_TRACEBACK"
COMPLETION_VARIABLE = "_OPTC_COMPLETE"
"""By which shells ask click for completions."""
BY_SIGNAL = 128
"""Added to the number of the signal that ends a program, as shells do."""
INTERRUPTED = BY_SIGNAL + signal.SIGINT
CLOSED_PIPE = BY_SIGNAL + signal.SIGPIPE
STOPPING = (signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asks the program to end; on the way out temporary files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = BY_SIGNAL + number


class LazyGroup(click.Group):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The `command` of a module, or a usage error that names the nearest one."""
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(COMMANDS)}"
            raise click.UsageError(f"unknown command '{cmd_name}', {hint}", ctx)
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _print_version(context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        try:
            click.echo(f"optc {importlib.metadata.version('optc')}")
        except importlib.metadata.PackageNotFoundError:
            click.echo("optc, version unknown: run from a checkout that is not installed")
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.option(
    TRACEBACK_FLAG,
    is_flag=True,
    expose_value=False,
    help=f"Show Python's traceback of an error; also with {TRACEBACK_VARIABLE}=1.",
)
def cli() -> None:
    """Make trained ONNX models smaller and faster, and show what that costs."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; see `toolchain.errors`."""
    # Known wherever it stands, and before anything can fail.
    traced = TRACEBACK_FLAG in arguments or bool(os.environ.get(TRACEBACK_VARIABLE))
    logging.basicConfig(level=logging.ERROR)  # libraries warn of what optc reports itself
    try:
        given = [argument for argument in arguments if argument != TRACEBACK_FLAG]
        with cli.make_context("optc", given) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        where = f"; see '{error.ctx.command_path} --help'" if error.ctx is not None else ""
        return _fail(f"{error.format_message().rstrip('.')}{where}", error.exit_code, traced)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code, traced)
    except OptcError as error:
        return _fail(str(error), error.exit_code, traced)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, traced)
    except Stopped as error:
        return _fail(str(error), error.exit_code, traced)
    except BrokenPipeError:
        return CLOSED_PIPE
    except BaseException as error:  # the last resort: no user sees a traceback unasked
        hint = (
            "" if traced else f"; rerun with {TRACEBACK_FLAG} or {TRACEBACK_VARIABLE}=1 for details"
        )
        return _fail(f"internal error: {type(error).__name__}: {error}{hint}", 1, traced)
    return result if isinstance(result, int) else 0


def _fail(message: str, exit_code: int, traced: bool) -> int:
    if traced:
        traceback.print_exc()
    label = click.style("optc: error:", fg="red", bold=True)
    with contextlib.suppress(OSError):  # the terminal is gone, or nobody reads on
        click.echo(f"{label} {' '.join(message.split())}", err=True)
    return exit_code


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in STOPPING:  # another one would leave temporary files
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def main() -> None:
    """Entry point of the console script."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _stop)
    if COMPLETION_VARIABLE in os.environ:
        cli.main(prog_name="optc")  # ends the program
    exit_code = run(sys.argv[1:])
    _drop_unwritten()
    sys.exit(exit_code)


def _drop_unwritten() -> None:
    """Drops output that cannot be written; Python would end with an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
