"""Loan approval: the whole loop of aios on 1,989 real mortgage applications.

`data` and `training` make the models, `faulty` and `rules` are model code and a fallback that
the runtime imports by path, `replay` sends the applications as HTTP traffic, `display` shows
it live and `report` draws what happened. `recipes` and `governed` are the second act: retrains,
gates, an approval and the questions asked later; `dossier` holds what came out. Race, sex, age
and marital status are in the data for fairness checks and never in the model's contract.
"""
