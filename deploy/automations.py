"""Who is told when a night goes wrong: automations and the blocks they speak through, by name.

Blocks: `cfjobs-webhook`, made from CFJOBS_ALERT_WEBHOOK, and `cfjobs-email`, made from CFJOBS_SMTP,
CFJOBS_EMAIL_FROM and CFJOBS_EMAIL_TO. One that is there already is left as it is; where there is neither,
nobody is told, and `deploy.apply` says so.

Each automation matches a tag of our own deployments, so runs of others on the same server are never touched:
`cfjobs` is on every one, `cfjobs-night` on those that publish. The latter alone are told of when they end
badly, since the end of a training or a scoring on another worker is in the message of the night that waited
for it.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from cfjobs.errors import InputError

WEBHOOK = "cfjobs-webhook"
EMAIL = "cfjobs-email"
RUNBOOK = "deploy/README.md"
OURS = "cfjobs"
NIGHT = "cfjobs-night"
NOBODY = (
    "NOBODY WILL BE TOLD when a night fails or does not start: set CFJOBS_ALERT_WEBHOOK, or CFJOBS_SMTP, "
    "CFJOBS_EMAIL_FROM and CFJOBS_EMAIL_TO, and deploy again"
)

HEARTBEAT_SECONDS = 30
"""Between two signs of life of a run; PREFECT_FLOWS_HEARTBEAT_FREQUENCY of prefect.yaml and the pools says
the same."""
ZOMBIE_AFTER = timedelta(seconds=3 * HEARTBEAT_SECONDS)
STRANDED_AFTER = timedelta(minutes=15)
SILENT_AFTER = timedelta(hours=26)

LOST = "cfjobs.run.lost"
"""A run that was under way when the whole installation stopped (deploy/leftovers.py)."""
DEPLOYED = "cfjobs.deployed"

_PUBLISHED = "cfjobs.published"
_BEAT = "prefect.flow-run.heartbeat"
_BEGUN = "prefect.flow-run.Running"
_WAITING = "prefect.flow-run.Pending"
_AT_REST = {f"prefect.flow-run.{name}" for name in ("Suspended", "Paused", "AwaitingRetry", "Scheduled")}
_ENDS = {
    f"prefect.flow-run.{name}"
    for name in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Skipped", "Lost")
}
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
_NAME = (
    "{% if flow_run.run_count %}{{ flow_run.name }}{% else %}{{ flow.name }}, planned for "
    "{{ flow_run.expected_start_time.strftime('%Y-%m-%d %H:%M') }} UTC,{% endif %}"
)
"""A run has Prefect's random name until it begins."""
_SCHEME = {"smtp": "insecure", "smtp+starttls": "starttls", "smtps": "ssl"}


@dataclass(frozen=True)
class Alerts:
    """What was set up: the names of the automations, and of the receivers that they speak to."""

    names: list[str]
    receivers: list[str]


def automations(blocks: dict[str, UUID]) -> list[AutomationCore]:
    """Every automation of the job, speaking through these blocks."""
    alert = partial(_alert, blocks)
    return [
        alert(
            "a run failed",
            "A night failed, crashed or timed out.",
            of_runs(
                {"Failed", "Crashed", "TimedOut"}, NIGHT, {"prefect.state-message": "!*the gate refused*"}
            ),
            subject=f"{_NAME} ended as {{{{ flow_run.state.name }}}}",
            body="{{ flow_run.state.message }}",
        ),
        alert(
            "a run was lost",
            "A run was under way when the installation stopped.",
            EventTrigger(expect={LOST}, match=_RUNS),
            subject="{{ event.resource.name }} was lost",
            body="the installation was stopped while it ran; run it again",
            entry="a run crashed",
        ),
        alert(
            "a run was cancelled",
            "A night was cancelled: by somebody, or since another was running.",
            of_runs({"Cancelled"}, NIGHT),
            subject=f"{_NAME} was cancelled",
            body="{{ flow_run.state.message or 'by somebody' }}",
        ),
        alert(
            "a run was skipped",
            "A night started so late that a newer one is published.",
            of_runs({"Skipped"}, NIGHT),
            subject=f"{_NAME} was skipped",
            body="{{ flow_run.state.message }}",
            entry="a run is late",
        ),
        alert(
            "a run is late",
            "A run was due and no worker has taken it.",
            of_runs({"Late"}, OURS),
            subject=f"{_NAME} is late",
            body="no worker of the pool {{ work_pool.name if work_pool else '' }} has taken it",
        ),
        alert(
            "the gate refused",
            "A night was not good enough to publish.",
            EventTrigger(expect={"cfjobs.gate.refused"}, match={"prefect.resource.id": "cfjobs.night.*"}),
            subject="the gate refused the {{ event.resource.name }}",
            body="{{ event.payload.reason }}",
        ),
        alert(
            "no night was published",
            f"For {_span(SILENT_AFTER)}, whatever the reason.",
            EventTrigger(
                after={_PUBLISHED, DEPLOYED},
                expect={_PUBLISHED},
                match={"prefect.resource.id": ["cfjobs.night.*", "cfjobs.installation"]},
                posture=Posture.Proactive,
                threshold=1,
                within=SILENT_AFTER,
            ),
            subject=f"no night was published for {_span(SILENT_AFTER)}",
            body="is the schedule active, a worker running, the last night refused?",
            link=False,
        ),
        _crash(
            "zombie runs",
            "A run gives no sign of life: its worker is gone.",
            after={_BEGUN, _BEAT},
            expect={_BEGUN, _BEAT, *_AT_REST, *_ENDS},
            within=ZOMBIE_AFTER,
            message=f"no heartbeat for {ZOMBIE_AFTER.seconds} s: the worker or its machine is gone",
        ),
        _crash(
            "stranded runs",
            "A worker took a run and never began it.",
            after={_WAITING},
            expect={_BEGUN, *_AT_REST, *_ENDS},
            within=STRANDED_AFTER,
            message=f"pending for {_span(STRANDED_AFTER)}: a worker took the run and never began it",
        ),
    ]


def _alert(
    blocks: dict[str, UUID],
    what: str,
    meaning: str,
    trigger: EventTrigger,
    *,
    subject: str,
    body: str,
    link: bool = True,
    entry: str | None = None,
) -> AutomationCore:
    """Tell people of something. entry: of the runbook, what has happened by default."""
    return AutomationCore(
        name=f"cfjobs: {what}",
        description=f"{meaning} {RUNBOOK}: {entry or what}.",
        trigger=trigger,
        actions=tell(blocks, subject, body, link=link),
    )


def _crash(
    which: str, meaning: str, *, after: set[str], expect: set[str], within: timedelta, message: str
) -> AutomationCore:
    """Mark a run of ours as crashed when, after one of these events, none of the expected ones follows."""
    return AutomationCore(
        name=f"cfjobs: crash {which}",
        description=f"{meaning} It is marked as crashed. {RUNBOOK}: a run crashed.",
        trigger=EventTrigger(
            after=after,
            expect=expect,
            match=_RUNS,
            match_related=_tag(OURS),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def of_runs(states: set[str], tag: str, match: dict[str, str] | None = None) -> EventTrigger:
    """Each time that a run with this tag enters one of these states."""
    return EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in states},
        match={**_RUNS, **(match or {})},
        match_related=_tag(tag),
    )


def _tag(name: str) -> dict[str, Any]:
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{name}"}


def tell(blocks: dict[str, UUID], subject: str, body: str, *, link: bool = True) -> list[ActionTypes]:
    """Send this through the blocks that there are, with a link to the run's page."""
    where = "{% if flow_run %}{{ (flow_run | ui_url) or '' }}{% endif %}" if link else ""
    told: list[ActionTypes] = []
    if WEBHOOK in blocks:
        text = f"{{% set text %}}cfjobs: {subject}: {body} {where}{{% endset %}}"
        payload = text + '{"text": {{ text | trim | tojson }}}'
        told.append(CallWebhook(block_document_id=blocks[WEBHOOK], payload=payload))
    if EMAIL in blocks:
        told.append(
            SendNotification(
                block_document_id=blocks[EMAIL],
                subject=f"cfjobs: {subject}",
                body=f"{body}\n\n{where}\n\nWhat to do: {RUNBOOK}",
            )
        )
    return told or [DoNothing()]


def ensure_blocks(client: SyncPrefectClient) -> dict[str, UUID]:
    """The alert blocks by name: those that are there, and those that the environment describes."""
    if url := os.environ.get("CFJOBS_ALERT_WEBHOOK"):
        Webhook(url=SecretStr(url)).save(WEBHOOK, overwrite=True)
    if server := os.environ.get("CFJOBS_SMTP"):
        missing = [name for name in ("CFJOBS_EMAIL_FROM", "CFJOBS_EMAIL_TO") if not os.environ.get(name)]
        if missing:
            raise InputError(f"CFJOBS_SMTP is set and {missing[0]} is not; export the address")
        url = mail_url(server, sender=os.environ["CFJOBS_EMAIL_FROM"], to=os.environ["CFJOBS_EMAIL_TO"])
        # Prefect has no block for SMTP; this one takes every URL of Apprise, its library for notifications.
        SlackWebhook(url=SecretStr(url)).save(EMAIL, overwrite=True)
    found: dict[str, UUID] = {}
    for name, kind in ((WEBHOOK, "webhook"), (EMAIL, "slack-webhook")):
        try:
            found[name] = client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            continue
    return found


def mail_url(server: str, *, sender: str, to: str) -> str:
    """Apprise's URL for mail by this server.

    server: smtp://, smtp+starttls:// or smtps://, then [user:password@]host[:port]. to: addresses,
    with commas.
    """
    parts = urlsplit(server)
    if parts.scheme not in _SCHEME or not parts.hostname:
        raise InputError(
            "CFJOBS_SMTP: expected smtp://, smtp+starttls:// or smtps://, then user:password@host:port"
        )
    login = (
        f"{quote(parts.username, safe='')}:{quote(parts.password or '', safe='')}@" if parts.username else ""
    )
    mode = _SCHEME[parts.scheme]
    port = f":{parts.port}" if parts.port else ""
    options = {"smtp": parts.hostname, "from": sender, "to": to, "mode": mode, "format": "text"}
    scheme = "mailto" if mode == "insecure" else "mailtos"
    return f"{scheme}://{login}{parts.hostname}{port}/?{urlencode(options)}"


def apply(client: SyncPrefectClient) -> Alerts:
    """Create every automation, or replace one that differs.

    One that is as it should be is left alone: it may be counting the seconds since a run's last heartbeat.
    """
    blocks = ensure_blocks(client)
    wanted = automations(blocks)
    for automation in wanted:
        found = client.read_automations_by_name(automation.name)
        if len(found) == 1 and _shape(found[0]) == _shape(automation):
            continue
        for old in found:
            client.delete_automation(old.id)
        client.create_automation(automation)
    return Alerts([automation.name for automation in wanted], sorted(blocks))


def start_counting() -> None:
    """Tell the dead man's switch that nights are due from now on; where it counts already,
    it goes on counting."""
    emit_event(DEPLOYED, resource={"prefect.resource.id": "cfjobs.installation"})


def _shape(automation: AutomationCore) -> dict[str, Any]:
    """What makes two automations the same: what they wait for, and what they do."""
    return automation.model_dump(
        include={"description": True, "trigger": True, "actions": True}, exclude={"trigger": {"id"}}
    )


def _span(time: timedelta) -> str:
    minutes = int(time.total_seconds()) // 60
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} minutes"
