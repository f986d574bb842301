"""The tickets: complaints to the US Consumer Financial Protection Bureau, in the public domain, and
the classifier that tells which product each is about."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aios
from apps import supplies

if TYPE_CHECKING:
    import pandas as pd

TEXT, PRODUCT = "text", "product"
LONGEST = 2_000
"""Characters of a ticket that are read; a fifth of the complaints are longer."""
PRODUCTS = {
    "Bank account or service, Savings account": "bank account",
    "Consumer loan, Vehicle loan or lease, Payday loan, title loan, or personal loan": (
        "consumer loan"
    ),
    "Credit card or prepaid card": "card",
    "Credit reporting, credit repair services, or other personal consumer reports": "credit report",
    "Debt collection": "debt collection",
    "Money transfer, virtual currency, or money service": "money transfer",
    "Mortgage": "mortgage",
    "Student loan": "student loan",
}
"""What the Bureau calls a product, and how the desk calls it."""
TRAINED_ROWS = 6_500
FIRST_ROWS = 1_500
"""With so many labelled tickets the desk began; TRAINED_ROWS are there for the second version."""
SEED = 7


@dataclass(frozen=True)
class Ticket:
    """A ticket, and what nobody but the stand-in for a person is told: which product it is."""

    id: str
    text: str
    product: str


def load(cache: Path = supplies.CACHE) -> "pd.DataFrame":
    """Every complaint as `text` and `product`, shuffled, each text once.

    Raises:
        UsageError: the data cannot be fetched.
    """
    return prepared(supplies.read(supplies.COMPLAINTS, cache))


def prepared(raw: "pd.DataFrame") -> "pd.DataFrame":
    """The Bureau's table as the desk reads it.

    Raises:
        UsageError: it has a product that the desk does not know.
    """
    frame = raw.rename(columns={"Consumer complaint narrative": TEXT, "Product": PRODUCT})
    strange = sorted(set(frame[PRODUCT]) - set(PRODUCTS))
    if strange:
        raise aios.UsageError(f"the complaints have products that are not known: {strange}")
    frame = frame[[TEXT, PRODUCT]].assign(
        text=frame[TEXT].str.slice(0, LONGEST), product=frame[PRODUCT].map(PRODUCTS)
    )
    frame = frame.drop_duplicates(TEXT)
    return frame.sample(frac=1.0, random_state=SEED).reset_index(drop=True)


def unseen(frame: "pd.DataFrame", count: int) -> list[Ticket]:
    """So many tickets that no version was trained on.

    Raises:
        UsageError: there are fewer, or none is asked for.
    """
    rest = frame.iloc[TRAINED_ROWS:]
    if not 1 <= count <= len(rest):
        raise aios.UsageError(
            f"{count} tickets: give 1 to {len(rest):,}, as many as no classifier has seen"
        )
    rows = rest.head(count).itertuples(index=False)
    return [Ticket(f"T-{number:05d}", row.text, row.product) for number, row in enumerate(rows)]


def contract() -> aios.Contract:
    """What the classifier is asked and what it answers."""
    return aios.Contract(
        inputs={TEXT: aios.Text(max_length=LONGEST)},
        outputs={
            PRODUCT: aios.Category(sorted(PRODUCTS.values())),
            "confidence": aios.Number(min=0, max=1),
        },
    )


OUTPUTS = {PRODUCT: "label", "confidence": "confidence"}
"""Where the classifier's outputs are found in the estimator's."""


def first_classifier(frame: "pd.DataFrame") -> Any:
    """The one with which the desk began: few tickets, few words."""
    return _fitted(frame.head(FIRST_ROWS), words=1_000, strength=1.0)


def better_classifier(frame: "pd.DataFrame") -> Any:
    """Its successor: all tickets that were labelled since, more words."""
    return _fitted(frame.head(TRAINED_ROWS), words=3_000, strength=4.0)


def worse_classifier(frame: "pd.DataFrame") -> Any:
    """What an accident makes: it was trained on subjects, the first 40 characters of each text."""
    short = frame.head(FIRST_ROWS).assign(text=lambda rows: rows[TEXT].str.slice(0, 40))
    return _fitted(short, words=1_000, strength=1.0)


def accuracy(model: Any, tickets: list[Ticket]) -> float:
    """The share of tickets whose product the model names."""
    import pandas as pd

    told = model.predict(pd.DataFrame({TEXT: [one.text for one in tickets]}))
    return float((told == [one.product for one in tickets]).mean())


def _fitted(frame: "pd.DataFrame", words: int, strength: float) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # Letters keep their case: ONNX would lower them by the serving machine's locale.
    counted = TfidfVectorizer(lowercase=False, token_pattern="[a-zA-Z]+", max_features=words)
    model = make_pipeline(
        ColumnTransformer([("words", counted, TEXT)]), LogisticRegression(C=strength, max_iter=300)
    )
    return model.fit(frame[[TEXT]], frame[PRODUCT])
