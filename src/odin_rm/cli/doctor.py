"""Whether this machine can run the commands: versions, accelerator, extras, memory, places to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.workflows.doctor.config import DoctorConfig
    from odin_rm.workflows.doctor.run import Finding

MARKS = {"ok": "ok  ", "note": "note", "fail": "FAIL"}


def run(config: DoctorConfig) -> int:
    """Examine, say what was found; 1 where something would stop all commands."""
    from odin_rm.core.files import dump_json
    from odin_rm.workflows.doctor.run import as_json, examine, healthy

    findings = examine()
    if config.json:
        say(dump_json(as_json(findings), indent=2))
    else:
        for line in lines(findings):
            say(line)
    return 0 if healthy(findings) else 1


def lines(findings: list[Finding]) -> list[str]:
    """The findings by group, each with how to mend it, and the verdict."""
    shown, width = [], max(len(finding.name) for finding in findings)
    for group in dict.fromkeys(finding.group for finding in findings):
        shown.append(group)
        for finding in findings:
            if finding.group == group:
                mend = f"  ->  {finding.fix}" if finding.fix else ""
                shown.append(f"  {MARKS[finding.status]}  {finding.name:<{width}}  {finding.value}{mend}")
    failed, notes = ([f.name for f in findings if f.status == status] for status in ("fail", "note"))
    if failed:
        return [*shown, f"Not healthy: mend {', '.join(failed)}."]
    return [*shown, "All is well." if not notes else f"All is well; some commands would mind: {', '.join(notes)}."]
