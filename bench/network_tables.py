"""The tables of whole networks in docs/, from results files of `python -m bench model`."""

from bench.publish import ROOT, replace_between

BEGIN = "<!-- python -m bench model --publish: begin -->"
PAGES = [ROOT / "docs" / name for name in ("benchmarks.md", "training.md")]
ORDER = {"train": "training step", "inference": "inference"}


def publish(files: list[dict]) -> None:
    """Write a table a file into both pages: the training page holds the training steps alone."""
    for page in PAGES:
        modes = tuple(ORDER) if page.name == "benchmarks.md" else ("train",)
        text = "\n".join(table(results, modes) for results in files)
        replace_between(page, BEGIN, f"\n{text}\n")


def table(results: dict, modes: tuple[str, ...]) -> str:
    """Times and memory of every provider, beside eager's."""
    m = results["machine"]
    host = m["gpu"] or f"{m['cpu']}, {m['threads']} threads"
    lines = [
        f"{host}, torch {m['torch']}:",
        "",
        "| | | ms | images/s | peak MB | time : eager's | memory : eager's |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    rows = [row for row in results["rows"] if row["mode"] in modes]
    eager = {case(row): row for row in rows if row["provider"] == "eager"}
    for row in rows:
        peer = eager.get(case(row), {})
        lines.append(
            f"| {case(row)} | {row['provider']} | {row['seconds'] * 1e3:.1f} "
            f"| {row['images_per_second']:.3g} | {megabytes(row.get('peak_bytes'))} "
            f"| {ratio(row, peer, 'seconds')} | {ratio(row, peer, 'peak_bytes')} |"
        )
    return "\n".join([*lines, ""])


def case(row: dict) -> str:
    """What a row measured, but for the provider."""
    size = f"{row['size']} x {row['size']}"
    return (
        f"{row['network']} {row['backbone']}, {ORDER[row['mode']]}, batch {row['batch']}, {size}, "
        f"{row['dtype']}"
    )


def megabytes(count: int | None) -> str:
    return f"{count / 1e6:.0f}" if count else ""


def ratio(row: dict, peer: dict, name: str) -> str:
    return f"{row[name] / peer[name]:.3g}" if row.get(name) and peer.get(name) else ""
