"""Who is told when a night goes wrong: automations and the blocks they speak through, by name.

Blocks: `cfjobs-webhook` (made from CFJOBS_ALERT_WEBHOOK) and `cfjobs-email` (SendGrid, made from
CFJOBS_SENDGRID_API_KEY, CFJOBS_EMAIL_FROM and CFJOBS_EMAIL_TO). One that is there already is left as it is; where
there is neither, the automations still show in Prefect's event feed.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import SendgridEmail
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

WEBHOOK = "cfjobs-webhook"
EMAIL = "cfjobs-email"
RUNBOOK = "deploy/README.md"

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut")}
_SILENCE = timedelta(seconds=90)  # three heartbeats of 30 s
_OURS: dict[str, Any] = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.cfjobs"}


def automations(blocks: dict[str, UUID]) -> list[AutomationCore]:
    """Every automation of the job, speaking through these blocks."""
    return [
        AutomationCore(
            name="cfjobs: a run failed",
            description=f"A run of the job failed, crashed or timed out. {RUNBOOK}: a run failed.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related=_OURS,
            ),
            actions=tell(
                blocks,
                "{{ flow_run.name }} ended as {{ flow_run.state.name }}",
                "{{ flow_run.state.message }}",
            ),
        ),
        AutomationCore(
            name="cfjobs: a run is late",
            description=f"A run was due and no worker has taken it. {RUNBOOK}: a run is late.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Late"},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related=_OURS,
            ),
            actions=tell(blocks, "{{ flow_run.name }} is late", "no worker has taken it"),
        ),
        AutomationCore(
            name="cfjobs: the gate refused",
            description=f"A night was not good enough to publish. {RUNBOOK}: the gate refused.",
            trigger=EventTrigger(
                expect={"cfjobs.gate.refused"}, match={"prefect.resource.id": "cfjobs.night.*"}
            ),
            actions=tell(
                blocks, "the gate refused the {{ event.resource.name }}", "{{ event.payload.reason }}"
            ),
        ),
        AutomationCore(
            name="cfjobs: crash zombie runs",
            description=f"A run gives no sign of life: its worker is gone. It is marked as crashed. {RUNBOOK}: a run crashed.",
            trigger=EventTrigger(
                after={_HEARTBEAT},
                expect={_HEARTBEAT, *_ENDS},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=_SILENCE,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    message=f"no heartbeat for {_SILENCE.seconds} s: the worker or its machine is gone",
                )
            ],
        ),
    ]


def tell(blocks: dict[str, UUID], subject: str, body: str) -> list[ActionTypes]:
    """Send this through the blocks that there are."""
    told: list[ActionTypes] = []
    if WEBHOOK in blocks:
        text = f"{{% set text %}}cfjobs: {subject}: {body}{{% endset %}}"
        payload = text + '{"text": {{ text | tojson }}}'
        told.append(CallWebhook(block_document_id=blocks[WEBHOOK], payload=payload))
    if EMAIL in blocks:
        told.append(
            SendNotification(
                block_document_id=blocks[EMAIL], subject=f"cfjobs: {subject}", body=f"{body}\n\n{RUNBOOK}"
            )
        )
    return told or [DoNothing()]


def ensure_blocks(client: SyncPrefectClient) -> dict[str, UUID]:
    """The alert blocks by name: those that are there, and those that the environment describes."""
    if url := os.environ.get("CFJOBS_ALERT_WEBHOOK"):
        Webhook(url=SecretStr(url)).save(WEBHOOK, overwrite=True)
    if key := os.environ.get("CFJOBS_SENDGRID_API_KEY"):
        SendgridEmail(
            api_key=SecretStr(key),
            sender_email=os.environ["CFJOBS_EMAIL_FROM"],
            to_emails=os.environ["CFJOBS_EMAIL_TO"].split(","),
        ).save(EMAIL, overwrite=True)
    found: dict[str, UUID] = {}
    for name, kind in ((WEBHOOK, "webhook"), (EMAIL, "sendgrid-email")):
        try:
            found[name] = client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            continue
    return found


def apply(client: SyncPrefectClient) -> Sequence[str]:
    """Create every automation, or replace one that differs; returns their names.

    One that is as it should be is left alone: it may be counting the seconds since a run's last heartbeat.
    """
    wanted = automations(ensure_blocks(client))
    for automation in wanted:
        found = client.read_automations_by_name(automation.name)
        if len(found) == 1 and _shape(found[0]) == _shape(automation):
            continue
        for old in found:
            client.delete_automation(old.id)
        client.create_automation(automation)
    return [automation.name for automation in wanted]


def _shape(automation: AutomationCore) -> dict[str, Any]:
    """What makes two automations the same: what they wait for, and what they do."""
    return automation.model_dump(
        include={"description": True, "trigger": True, "actions": True}, exclude={"trigger": {"id"}}
    )
