"""What is tried against attnviz on purpose: damaged files, kills, full disks, many at once.

Seeded, and sized by `--campaign`: .1 is the short form that the tests run, 1 the long one.
`python -m tests.campaign [SIZE]` runs it by hand and writes .github/RELIABILITY.md.
"""
