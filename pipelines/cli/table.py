"""The table of commands; the module of a command is imported when that command is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from pipelines.cli.root import OnceCommand, OnceGroup, Typer

#: command -> (module:function, or module:group; its line in `vmoer --help`), in the order of the help
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("pipelines.cli.run:run", "Compute an experiment that a spec describes."),
    "train": ("pipelines.cli.train:train", "Train the routers that a spec describes."),
    "inspect": ("pipelines.cli.inspect:inspect", "Print how each token of a prompt is routed, or why."),
    "jobs": ("pipelines.cli.jobs:app", "List, cancel and resume jobs, and read their logs."),
    "runs": ("pipelines.cli.runs:app", "List the runs in the data folder, and remove some."),
    "export": ("pipelines.cli.results:export", "Write one table of a run to a file."),
    "verify": ("pipelines.cli.verify:verify", "Check hashes, row counts and keys of what is stored."),
    "compact": ("pipelines.cli.results:compact", "Merge small shards and free room."),
    "demo": ("pipelines.cli.serving:demo", "Evaluate the two bundled models and show the results."),
    "serve": ("pipelines.cli.serving:serve", "Show the dashboard, with a worker beside it."),
    "worker": ("pipelines.cli.serving:worker", "Compute queued jobs until it is told to stop."),
    "models": ("pipelines.cli.bundled:app", "List the bundled models, or fetch and build one."),
    "datasets": ("pipelines.cli.datasets:datasets", "Check question sets: the built-in ones, or your own."),
    "noise-floor": ("pipelines.cli.noise_floor:command", "Measure how number formats alone change the routing."),
    "bench": ("pipelines.cli.bench:bench", "Measure ratios and times, each beside its goal."),
    "doctor": ("pipelines.cli.doctor:doctor", "Check the installation, the data folder and the jobs."),
    "reproduce": ("pipelines.cli.suites:reproduce", "Run a suite and write the verdict of each claim."),
    "archive": ("pipelines.cli.suites:archive", "Pack the results of finished runs into one file."),
    "import": ("pipelines.cli.suites:import_", "Add the runs of an archive to the data folder."),
}


class _Root(OnceGroup):
    """Hold a stand-in with one line of help for each command, and import a command when it is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: OnceCommand(name, help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command itself and the rest of the arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name in COMMANDS else command, rest


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(import_module(module), attribute)
    if not isinstance(command, typer.Typer):
        single = Typer()
        single.command(name)(command)
        command = single
    loaded = typer.main.get_command(command)
    loaded.name = name
    return loaded


def load_all(root: Any) -> Any:
    """Return the root command with every command imported in place of its stand-in."""
    root.commands = {name: _load(name) for name in COMMANDS}
    return root


app = Typer(
    group=_Root,
    name="vmoer",
    epilog=(
        "Exit codes: 0 done · 1 problems found (`verify`, `doctor`, a goal missed in `bench`) · 2 bad input or a "
        "missing thing, named in one sentence · 3 a job failed or was cancelled · 130 interrupted with Ctrl-C."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def root() -> None:
    """See, measure and fix the routing uncertainty of Mixture-of-Experts language models."""
