"""Support triage: a support desk on aios, with 1,500 real complaints as its tickets.

`tickets` are the texts and the classifier's two versions; `triage` is what runs on the runtime: the
agent that each ticket has, and the flow that asks a person. `traffic` sends tickets and takes the
replies, `people` stands in for the desk's staff, `figures` computes what came of it, `display` and
`report` show it, `story` tells it: `python -m apps.support_triage`.
"""
