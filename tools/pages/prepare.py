"""Get what the pages need at full scale, and report what a machine lacks, before any page runs."""

from __future__ import annotations

from tools.pages.project import Project


def prepare(project: Project, names: list[str], profile: str) -> list[str]:
    """Download the data and checkpoints of pages and return what is missing, a sentence for each problem.

    Prints what ``dtta doctor`` says about each problem of these pages.
    """
    problems = {}
    for name in names:
        if problem := project.problems.get(name):
            settings = project.settings(name, profile)
            problems[problem] = (settings.get("network"), settings.get("diffusion"))
    sentences = []
    for problem, models in problems.items():
        findings, error = examine(problem, *models)
        print(f"--- {problem}", *findings, "", sep="\n", flush=True)
        missing = ", ".join(dict.fromkeys(finding.what for finding in findings if finding.good is False))
        if missing or error:
            sentences.append(f"{problem}: {missing or 'it'} cannot be used{f': {error}' if error else ''}")
    return sentences


def examine(problem: str, network: str | None, diffusion: str | None) -> tuple[list, str]:
    """Return what ``dtta doctor`` finds after the attempt to get what a problem lacks, and why that failed, or ""."""
    from dtta.cli import doctor, explanation
    from dtta.problems.data.download import ARCHIVES, fetch
    from dtta.problems.registry import load

    error = ""
    try:
        findings = doctor.examine(problem, network, diffusion, False)
        if problem in ARCHIVES and any(finding.what == "data" and finding.good is False for finding in findings):
            fetch(problem)
        load(problem, network, diffusion)  # downloads the checkpoints
    except (RuntimeError, ValueError, OSError) as cause:
        error = explanation(cause) or str(cause)
    return doctor.examine(problem, network, diffusion, False), error
