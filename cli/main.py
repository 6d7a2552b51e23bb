"""The door: `tollway <command>`.

Invariant: a command's code is imported when that command runs, so that --help is instant; an error that a person can
mend is one line that says what to do, and exit status 1.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from billing.domain.errors import BillingError

# We start children but never fork a server; gRPC's own handling of forks only prints warnings then.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# What goes wrong is told in our own words; the library's lines beside them only frighten.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# The command, the module that holds it as `command`, and its line in the list.
COMMANDS: Final = {
    "up": ("cli.commands.up", "Run everything here: PostgreSQL, NATS, server and workers."),
    "demo": ("cli.commands.demo", "Watch real usage become money, from an import to a webhook."),
    "serve": ("cli.commands.serve", "Run API servers against your PostgreSQL and bus."),
    "work": ("cli.commands.work", "Run workers against your PostgreSQL and bus."),
    "migrate": ("cli.commands.migrate", "Bring the database's schema up to date."),
    "keys": ("cli.commands.keys", "Create, list, show, rotate and revoke API keys."),
    "limits": ("cli.commands.limits", "See and set what a tenant may do: rates and quotas."),
    "clock": ("cli.commands.clock", "Make a test clock, send it on, and watch what happens."),
    "plans": ("cli.commands.plans", "Make plans with their prices from files; list and show them."),
    "usage": ("cli.commands.usage", "Record, import, list, summarize and correct usage."),
    "invoices": (
        "cli.commands.invoices",
        "See, explain, finalize, void and export invoices.",
    ),
    "events": ("cli.commands.events", "List, follow, watch and publish events."),
    "replay": ("cli.commands.replay", "Plan and start replays of the event log."),
    "ops": ("cli.commands.ops", "Look after the pipeline: lag, pauses, what waits or is dead."),
    "audit": ("cli.commands.audit", "See who changed what, when, and why."),
    "webhooks": (
        "cli.commands.webhooks",
        "See what became of webhooks, and why; send them again.",
    ),
    "pricing": ("cli.commands.pricing", "Quote prices and check worked cases; needs no server."),
}


class LazyGroup(click.Group):
    """Lists the commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tollway")
def tollway() -> None:
    """Event-driven billing: usage in, invoices out, every change an event.

    Start with `tollway demo` to see it work, or `tollway up` to work with it.
    """


def main() -> None:
    """The entry point: expected errors become one line."""
    try:
        tollway(standalone_mode=True)
    except Exception as error:
        known = _mendable(error)
        if known is None:
            raise
        click.echo(f"tollway: {known}", err=True)
        sys.exit(1)


def _mendable(error: BaseException) -> BaseException | None:
    """The error that a person can mend, if it is one or the first such of a group."""
    if isinstance(error, BaseExceptionGroup):
        found = (_mendable(one) for one in error.exceptions)
        return next((one for one in found if one is not None), None)
    return error if isinstance(error, (BillingError, *_expected())) else None


def _expected() -> tuple[type[Exception], ...]:
    """The errors that a person can mend, of the modules imported by now."""
    names = {
        "billing.runtime.settings": ("SettingsError",),
        "billing.runtime.embedded": ("EmbeddedError",),
        "billing.runtime.bus.base": ("BusError",),
        "billing.runtime.vault": ("VaultError",),
        "billing.runtime.db": ("ServerTooOld",),
        "billing.services.migrations": ("MigrationChanged",),
        "cli.children": ("ChildFailed",),
        "server.app": ("PlainTextRefused", "PortTaken"),
        "cli.client": ("CallFailed",),
    }
    return tuple(
        getattr(sys.modules[module], name)
        for module, attributes in names.items()
        if module in sys.modules
        for name in attributes
    )


if __name__ == "__main__":
    main()
