"""Prefect's ordering of events, which waits 10 seconds for an event that is missing instead of 15 minutes.

    PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=deploy.event_ordering        in the environment of the server

An alert for a state is held back until the event of the state before it has come. That event never comes
where it was emitted before the server was restarted, or is of a run that was planned shortly before it began:
the alert is 15 minutes late then, and lost where the server is killed in the meantime.
"""

from datetime import timedelta

from prefect.server.events.ordering import memory

memory.PRECEDING_EVENT_LOOKBACK = timedelta(seconds=10)  # type: ignore[attr-defined]  # it imports it

CausalOrdering = memory.CausalOrdering
