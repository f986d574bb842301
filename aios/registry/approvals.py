"""What waits for people, and what they answered."""

from sqlalchemy import Connection, Select, insert, select, update
from sqlalchemy.exc import IntegrityError

from aios.errors import Forbidden, IllegalTransition, UnknownName, UsageError
from aios.records import ApprovalRequest, Decision
from aios.registry.base import Reading, Writing, from_row, listed, record, shown
from aios.registry.references import version_row
from aios.store import tables as t


class ApprovalReads(Reading):
    """Questions about approvals."""

    def approval(self, request_id: str) -> ApprovalRequest:
        """A request with its answers, whatever its state.

        Raises:
            UnknownName: none has this id; the message lists those that wait.
        """
        query = select(t.approvals).where(t.approvals.c.id == request_id)
        with self._reading() as connection:
            found = _requests(connection, query)
        if not found:
            waiting = listed(f"{one.id} for {one.subject}" for one in self.waiting_approvals())
            raise UnknownName(f"no approval request {shown(request_id)}; waiting: {waiting}")
        return found[0]

    def approvals(
        self, subject: str | None = None, digest: str | None = None
    ) -> list[ApprovalRequest]:
        """All requests, of one subject or to one digest if given, oldest first."""
        query = select(t.approvals)
        if subject is not None:
            query = query.where(t.approvals.c.subject == subject)
        if digest is not None:
            query = query.where(t.approvals.c.digest == digest)
        with self._reading() as connection:
            return _requests(connection, query)

    def waiting_approvals(self) -> list[ApprovalRequest]:
        """The inbox: requests that somebody may answer now, oldest first."""
        now_s = self.now_s()
        query = select(t.approvals).where(t.approvals.c.expires_s > now_s)
        with self._reading() as connection:
            found = _requests(connection, query)
        return [request for request in found if request.state(now_s) == "waiting"]


class ApprovalWrites(Writing, ApprovalReads):
    """Asking and answering."""

    def request_approval(self, request: ApprovalRequest) -> ApprovalRequest:
        """Ask people for their approval; the request that stands.

        That is an earlier one if it is for the same subject and digest and waits or is
        approved. One for another digest ends now: what it asked about is no longer there.

        Raises:
            UnknownModel: there is no such version.
            IllegalTransition: the id was used before.
            UsageError: it brings its answers along, or is expired from the start.
        """
        connection = self._open()
        version_row(connection, f"{request.name}:{request.version}")
        if request.decisions or request.expires_s <= self.at_s:
            raise UsageError(
                f"approval request {shown(request.id)} must be new: without decisions, and with "
                "an expiry that is to come"
            )
        for other in self.approvals(request.subject):
            state = other.state(self.at_s)
            if state not in ("waiting", "approved"):
                continue
            if other.digest == request.digest:
                return other
            ended = update(t.approvals).where(t.approvals.c.id == other.id)
            connection.execute(ended.values(expires_s=self.at_s))
        row = request.model_dump(mode="json", exclude={"decisions"})
        try:
            connection.execute(insert(t.approvals).values(**row))
        except IntegrityError:
            raise IllegalTransition(
                f"approval request {shown(request.id)} cannot be made: its id was used before"
            ) from None
        self.note(request=request.id, digest=request.digest)
        return request

    def decide(self, request_id: str, decision: Decision) -> ApprovalRequest:
        """Add one person's answer to a request that waits; the request with all its answers.

        The answer is that of the decision's `by`, at the time of this change.

        Raises:
            UnknownName: there is no such request.
            Forbidden: the author of the request or of the version may not answer.
            IllegalTransition: it is over (approved, rejected, expired), or this person has
                answered it before.
        """
        request = self.approval(request_id)
        connection = self._open()
        version = version_row(connection, f"{request.name}:{request.version}")
        if decision.by in (request.author, version.created_by):
            made = "asked for the approval of" if decision.by == request.author else "made"
            raise Forbidden(
                f"{decision.by} {made} {request.subject} and may not answer; somebody else must"
            )
        state = request.state(self.at_s)
        if state != "waiting":
            raise IllegalTransition(
                f"approval request {request.id} for {request.subject} is {state} and takes no "
                "more answers; ask for a new approval"
            )
        if any(earlier.by == decision.by for earlier in request.decisions):
            raise IllegalTransition(
                f"{decision.by} has answered approval request {request.id} for "
                f"{request.subject} already; {request.needed} different people must approve"
            )
        row = decision.model_dump(mode="json") | {"at_s": self.at_s}
        connection.execute(insert(t.decisions).values(request_id=request.id, **row))
        self.note(answer=decision.answer, reason=decision.reason, digest=request.digest)
        return self.approval(request_id)


def _requests(connection: Connection, query: Select[*tuple[object, ...]]) -> list[ApprovalRequest]:
    rows = connection.execute(query.order_by(t.approvals.c.seq)).all()
    ids = query.with_only_columns(t.approvals.c.id).order_by(None)
    answers = select(t.decisions).where(t.decisions.c.request_id.in_(ids))
    decisions: dict[str, list[Decision]] = {}
    for row in connection.execute(answers.order_by(t.decisions.c.seq)):
        decisions.setdefault(row.request_id, []).append(from_row(Decision, row))
    requests = []
    for row in rows:
        fields = row._asdict() | {"decisions": tuple(decisions.get(row.id, ()))}
        fields.pop("seq")
        requests.append(record(ApprovalRequest, fields))
    return requests
