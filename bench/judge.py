"""What came of a soak, judged by a reader with no code of ours: deltalake, Polars, boto3 and HTTP.

    python bench/judge.py FACTS.json [--quiet]

FACTS.json is what bench/soak.py writes: the dates that were planned, the faults that were caused, the alerts
that came, and what memory and disk were. Prefect, store and tables are those that the environment names. Exit
code 1 when a law is broken:

    dates      each is published once, or its run says why it is not
    untouched  a night that no fault came near is published, unless one at a time was too few
    alerts     one for each end that calls for one, and no other
    runs       none Running, Pending, Late, Cancelling, or waiting beyond its time
    processes  none works on a run
    files      none in a temporary folder, none that no published version names, no work left behind
    levels     memory of each part, and what a night adds to the disk, no more at the end than before
"""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import httpx
import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

TABLES = ("top_n", "movie_embeddings", "similar_movies", "holdout_predictions", "metrics", "rejected_ratings")
TOLD = {"Failed": "ended as", "Crashed": "ended as", "TimedOut": "ended as", "Cancelled": "was cancelled",
        "Skipped": "was skipped", "Lost": "was lost", "Late": "is late"}  # fmt: skip
"""The name of a state, and the words of the alert that it calls for."""
AFTER = 4
"""Nights from a fault on that it may still touch: what it removed comes back two nights later."""
FEWEST = 20
"""Nights from which on a level is told from a start."""
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def main() -> int:
    """Judge; returns 1 when a law is broken."""
    facts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    quiet = "--quiet" in sys.argv
    try:
        runs = runs_of()
        alerts = judged_alerts(facts, runs)
        lines = [judged_runs(runs), alerts]
        if not quiet:
            lines = [judged_dates(facts, runs), judged_untouched(facts, runs), alerts, judged_runs(runs)]
            lines += [judged_processes(facts), judged_files(facts), *judged_levels(facts)]
    except httpx.HTTPError as error:
        print(f"judge: {error or type(error).__name__}", file=sys.stderr)
        return 1
    if not quiet:
        kinds = Counter(fault["kind"] for fault in facts["caused"])
        print(f"{len(facts['dates'])} nights, {len(facts['caused'])} faults\n")
        print("| fault | times | what came of its nights |\n|---|---:|---|")
        for kind, times in sorted(kinds.items()):
            hit = [fault["night"] for fault in facts["caused"] if fault["kind"] == kind]
            ends = Counter(end_of(runs[of]) if of in runs else "no run" for of in hit)
            print(f"| {kind} | {times} | {', '.join(f'{n} {end}' for end, n in ends.most_common())} |")
        print("\n| law | kept | |\n|---|---|---|")
        for name, broken, words in lines:
            print(f"| {name} | {'NO' if broken else 'yes'} | {words} |")
            for fault in broken[:20]:
                print(f"{name}: {fault}", file=sys.stderr)
    return int(any(broken for _, broken, _ in lines))


Law = tuple[str, Sequence[str], str]
"""Its name, what broke it, and the figures."""


# Prefect --------------------------------------------------------------------------------------------


def ask(method: str, path: str, **body: Any) -> Any:
    """Prefect's answer."""
    environment = os.environ
    user, _, password = environment["PREFECT_API_AUTH_STRING"].partition(":")
    url = environment["PREFECT_API_URL"] + path
    answer = httpx.request(method, url, auth=(user, password), timeout=30, **body)
    answer.raise_for_status()
    return answer.json()


def runs_of() -> dict[str, dict[str, Any]]:
    """Date -> its run, with all of its states in order; trainings by their own names."""
    found: dict[str, dict[str, Any]] = {}
    for offset in range(0, 10_000, 200):
        page = ask("POST", "/flow_runs/filter", json={"limit": 200, "offset": offset})
        for run in page:
            of = run["parameters"].get("run_date") if "cfjobs-night" in run["tags"] else None
            run["states"] = ask("GET", f"/flow_run_states/?flow_run_id={run['id']}") if of else []
            run["states"].sort(key=lambda state: state["timestamp"])
            found[of or run["name"] + run["id"]] = run
        if len(page) < 200:
            return found
    return found


def judged_runs(runs: dict[str, dict[str, Any]]) -> Law:
    """No run is under way, none waits beyond its time."""
    now = datetime.now(UTC).isoformat()
    left = [
        f"{run['name']} is {run['state_name']}"
        for run in runs.values()
        if run["state_type"] not in ENDS
        and not (run["state_type"] == "SCHEDULED" and run["expected_start_time"] > now)
    ]
    return "no run is left Running, Pending, Late", left, f"{len(runs)} runs"


def judged_alerts(facts: dict[str, Any], runs: dict[str, dict[str, Any]]) -> Law:
    """For each end that calls for an alert one alert came."""
    due = Counter[str]()
    names = {run["id"]: run["name"] for run in runs.values()}
    for of, run in runs.items():
        for state in run["states"]:
            if state["name"] == "Failed" and "the gate refused" in (state["message"] or ""):
                due[f"refused {of}"] += 1
            elif state["name"] in TOLD:
                due[f"{TOLD[state['name']]} {run['name']}"] += 1
    came = Counter[str]()
    for alert in facts["alerts"]:
        text = alert["text"]
        if refused := re.search(r"the gate refused the night of (\S+):", text):
            came[f"refused {refused[1]}"] += 1
        elif told := re.match(rf"cfjobs: (.+?) ({'|'.join(set(TOLD.values()))})\b", text):
            linked = re.search(r"/runs/flow-run/([0-9a-f-]+)", text)  # a run gets its name as it begins
            came[f"{told[2]} {names.get(linked[1], told[1]) if linked else told[1]}"] += 1
        else:
            came[text] += 1
    broken = [f"missing: {what}" for what in (due - came).elements()]
    broken += [f"more than once, or not due: {what}" for what in (came - due).elements()]
    return "each alert that is due came once", broken, f"{due.total()} due, {came.total()} came"


def end_of(run: dict[str, Any]) -> str:
    """How a run ended, in a word or two."""
    refused = "the gate refused" in (run["state"].get("message") or "")
    return "refused" if refused else str(run["state_name"]).lower()


# Tables and files -----------------------------------------------------------------------------------


def options() -> dict[str, str]:
    """How the store is reached."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
    return {name: os.environ[name] for name in names} | {"AWS_ALLOW_HTTP": "true"}


def judged_dates(facts: dict[str, Any], runs: dict[str, dict[str, Any]]) -> Law:
    """Each date is published once and whole, or explained."""
    output = os.environ["CFJOBS_OUTPUT"]
    try:
        table = DeltaTable(f"{output}/runs", storage_options=options())
    except TableNotFoundError:
        return "each date is published once, or explained", ["no table `runs`"], "none published"
    nights = pl.read_delta(f"{output}/runs", storage_options=options())
    rows = Counter(of.isoformat() for of in nights["run_date"].to_list())
    commits = Counter(entry["run_id"][:10] for entry in table.history() if entry.get("run_id"))
    broken = [f"{of}: {n} rows in runs" for of, n in rows.items() if n != 1]
    broken += [f"{of}: committed {n} times" for of, n in commits.items() if n != 1]
    broken += [f"{of}: not planned" for of in rows if of not in facts["dates"]]
    others = Counter[str]()
    for of in facts["dates"]:
        run = runs.get(of)
        if of in rows:
            if run is None or run["state_name"] != "Completed":
                others[f"published though {run and run['state_name']}"] += 1
        elif run is None or run["state_name"] == "Completed" or not run["state"].get("message"):
            broken.append(f"{of}: not published, and nothing says why")
        else:
            others[end_of(run)] += 1
    broken += [f"{of}: {fault}" for of, fault in torn(nights)]
    words = ", ".join(f"{n} {what}" for what, n in others.most_common())
    return "each date is published once, or explained", broken, f"{len(rows)} published; {words}"


def judged_untouched(facts: dict[str, Any], runs: dict[str, dict[str, Any]]) -> Law:
    """A night that no fault came near is published, or cancelled by the limit of one at a time."""
    dates = facts["dates"]
    hit = {dates.index(fault["night"]) for fault in facts["caused"]}
    untouched = [of for night, of in enumerate(dates) if not hit & set(range(night - AFTER + 1, night + 1))]
    ends = {of: end_of(runs[of]) if of in runs else "no run" for of in untouched}
    broken = [f"{of}: {end}" for of, end in ends.items() if end not in {"completed", "cancelled"}]
    n = sum(end == "completed" for end in ends.values())
    return "nights that no fault came near are published", broken, f"{n} of {len(untouched)}"


def torn(nights: pl.DataFrame) -> list[tuple[date, str]]:
    """Nights whose lists are not those that their row of `runs` tells of."""
    output = os.environ["CFJOBS_OUTPUT"]
    found = (
        pl.scan_delta(f"{output}/top_n", storage_options=options())
        .group_by("run_date")
        .agg(pl.len().alias("rows"), pl.col("user_id").n_unique().alias("lists"))
        .collect()
    )
    there = {row["run_date"]: row for row in found.to_dicts()}
    broken = []
    for night in nights.to_dicts():
        counts = json.loads(night["counts"])
        got = there.get(night["run_date"], {"rows": 0, "lists": 0})
        if (got["rows"], got["lists"]) != (counts["rows"], counts["lists"]):
            broken.append((night["run_date"], f"{got} in top_n, {counts['rows']} rows in runs"))
    return broken


def judged_files(facts: dict[str, Any]) -> Law:
    """No file is left that nobody needs."""
    environment = os.environ
    bucket, _, prefix = environment["CFJOBS_OUTPUT"].removeprefix("s3://").partition("/")
    store = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name=environment["AWS_REGION"],
                         aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
                         aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
    pages = store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [item["Key"].removeprefix(f"{prefix}/") for page in pages for item in page.get("Contents", ())]
    named = set[str]()
    for name in (*TABLES, "runs"):
        table = DeltaTable(f"{environment['CFJOBS_OUTPUT']}/{name}", storage_options=options())
        for version in range(table.version() + 1):
            table.load_as_version(version)
            named |= {uri.partition(f"/{prefix}/")[2] for uri in table.file_uris()}
    data = [key for key in keys if key.endswith(".parquet") and key.partition("/")[0] in (*TABLES, "runs")]
    work = [key for key in keys if key.startswith("_work/") and "claim" not in key and "lease" not in key]
    temporary = [str(path) for path in Path(facts["temporary"]).rglob("*") if path.is_file()]
    temporary = [path for path in temporary if "/weed." not in path]  # the store's own log
    broken = [f"no version names {key}" for key in data if key not in named]
    broken += [f"left behind: {key}" for key in work] + [f"left behind: {path}" for path in temporary]
    return "no file is left", broken, f"{len(keys)} objects, {len(data)} of them data files"


# The machine ----------------------------------------------------------------------------------------


def judged_processes(facts: dict[str, Any]) -> Law:
    """Nobody works on a run any more."""
    left = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = facts["mark"].encode() in environment and int(entry.name) != os.getpid()
        if ours and any(variable.startswith(b"PREFECT__FLOW_RUN_ID=") for variable in environment):
            left.append(f"process {entry.name}")
    return "no process is left at a run", left, ""


def judged_levels(facts: dict[str, Any]) -> list[Law]:
    """Memory and disk, at the end of the second quarter of the nights and at that of the last."""
    samples = facts["samples"]
    if len(facts["dates"]) < FEWEST:
        return [("memory and disk are level", (), f"not judged: fewer than {FEWEST} nights")]
    half, last = samples[len(samples) // 4 : len(samples) // 2], samples[-max(1, len(samples) // 4) :]
    broken, words = [], []
    for name in sorted({name for one in last for name in one["memory"]}):
        before, now = (median([s["memory"].get(name, 0) for s in part] or [0]) for part in (half, last))
        words.append(f"{name} {before:.0f} to {now:.0f}")
        if now > 1.25 * before + 50:  # a part that was started again is smaller for a while
            broken.append(f"{name}: {before:.0f} MB, then {now:.0f}")
    laws: list[Law] = [("memory is level", broken, f"MB: {', '.join(words)}")]
    broken, words = [], []
    for name in ("store", "postgres"):
        before, now = (a_night(part, name) for part in (half, last))
        words.append(f"{name} {before:.2f} then {now:.2f}, {last[-1]['disk'][name]:.0f} in all")
        if now > 2 * before + 2:
            broken.append(f"{name}: {before:.2f} MB a night, then {now:.2f}")
    laws.append(("what a night adds to the disk is level", broken, f"MB a night: {'; '.join(words)}"))
    return laws


def a_night(samples: Sequence[dict[str, Any]], name: str) -> float:
    """MB that a night adds over these samples."""
    if not samples or samples[-1]["night"] == samples[0]["night"]:
        return 0.0
    grown = samples[-1]["disk"][name] - samples[0]["disk"][name]
    return float(grown / (samples[-1]["night"] - samples[0]["night"]))


if __name__ == "__main__":
    sys.exit(main())
