"""What is tried against attnviz on purpose: damaged files, kills, full disks, many at once.

Seeded, and sized by `--campaign`: 1 is the short form that the slow tests run, 20 the long one,
run by hand. `python -m tests.campaign` runs the long form and writes .github/RELIABILITY.md.
"""
