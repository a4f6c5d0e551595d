"""What users, addresses and clients may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from threadwire.settings.section import Count, Section


class Limits(Section):
    """What users, addresses and clients may take; null: as the mode of auth has it."""

    connections_per_user: Annotated[
        Count | None, Field(description="Connections of one user at the same time; null: 50, with auth.mode none 0.")
    ] = None
    connections_per_address: Annotated[
        Count | None,
        Field(description="Connections from one address at the same time; null: 200, with auth.mode none 0."),
    ] = None
    upgrades_per_second: Annotated[
        Count | None,
        Field(description="New connections from one address, a second; null: 100, with auth.mode none 0."),
    ] = None
    commands_per_second: Annotated[
        Count | None,
        Field(description="Commands and HTTP requests of one user, a second; null: 100, with auth.mode none 0."),
    ] = None
    turns_per_minute: Annotated[
        Count | None, Field(description="Turns that one user may start, a minute; null: 120, with auth.mode none 0.")
    ] = None
    concurrent_runs_per_user: Annotated[
        Count | None,
        Field(description="Runs of one user at the same time, the rest wait; null: 10, with auth.mode none 0."),
    ] = None
    concurrent_runs: Annotated[
        Count, Field(description="Runs of all users at the same time; the rest wait, each user in turn.")
    ] = 2000
    tokens_per_day_per_user: Annotated[
        Count | None,
        Field(description="Tokens of one user's runs in a day (UTC); null: 2000000, with auth.mode none 0."),
    ] = None
    attachment_bytes: Annotated[
        Count, Field(description="One attachment inside a message (base64, a data: URL, or text), unpacked.")
    ] = 786_432
    buffered_bytes: Annotated[
        Count, Field(description="What waits in the server for one client that does not read, raw events included.")
    ] = 4_194_304
    history_page: Annotated[Count, Field(description="Messages in one history frame.")] = 100
    batch_inputs: Annotated[Count, Field(description="Inputs of one batch.")] = 1000
    max_batch_concurrency: Annotated[
        Count, Field(description="Inputs of one batch that run at once, whatever the batch asks for.")
    ] = 8

    def of_mode(self, mode: str) -> Limits:
        """The limits in force with that ``auth.mode``: each a number."""
        defaults = dict.fromkeys(WITH_AUTH, 0) if mode == "none" else WITH_AUTH
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return self.model_copy(update=missing)


#: The limits of users and addresses that hold where users are told apart, and nobody has set others.
WITH_AUTH = {
    "connections_per_user": 50,
    "connections_per_address": 200,
    "upgrades_per_second": 100,
    "commands_per_second": 100,
    "turns_per_minute": 120,
    "concurrent_runs_per_user": 10,
    "tokens_per_day_per_user": 2_000_000,
}
