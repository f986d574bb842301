"""Predictive maintenance: twelve machines watched by aios, from the sensor to the technician.

Real are the readings, nine sensors each, and whether something was wrong when each was taken
(`sensors`). Made up, and said again in the report: which machine a reading belongs to and when
machines wear out, since the public file is shuffled (`plant`); what a standstill costs (`costs`);
the technicians (`roster`); and the person who approves stops (`operations`).

The readings go through Kafka (`stream`) to an agent for each machine (`watching`), which asks a
model and begins a flow (`intervention`); `story` tells it while processes are killed, `outcome`
counts what came of it and `report` draws it.
"""
