"""What rules go by: what a model is for, the policy, data, assessments, broken glass."""

from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from aios.errors import IllegalTransition, UnknownName, UsageError
from aios.records import Assessment, BreakGlass, ModelProfile, Snapshot
from aios.registry.base import Reading, Writing, from_row, listed, record, shown, valid
from aios.registry.references import require_model, version_row
from aios.store import tables as t

LONGEST_BREAK_GLASS_S = 900.0
"""Long enough to end an outage, too short to become a habit."""


class GovernedReads(Reading):
    """Questions about the facts that rules go by."""

    def profile(self, name: str) -> ModelProfile:
        """What the owner of a model declared; an undeclared profile if nobody did.

        Raises:
            UsageError: no model can have this name.
        """
        with self._reading() as connection:
            query = select(t.profiles).where(t.profiles.c.name == name)
            row = connection.execute(query).first()
        return valid(ModelProfile, name=name) if row is None else from_row(ModelProfile, row)

    def policy(self, digest: str | None = None) -> dict[str, Any] | None:
        """The policy in force, or an earlier one by its digest; None if none was set.

        Raises:
            UnknownName: no policy with this digest was ever set.
        """
        query = select(t.policies.c.content).order_by(t.policies.c.seq.desc()).limit(1)
        if digest is not None:
            query = query.where(t.policies.c.digest == digest)
        with self._reading() as connection:
            found: dict[str, Any] | None = connection.execute(query).scalar()
            if found is None and digest is not None:
                known = select(t.policies.c.digest).order_by(t.policies.c.seq.desc())
                digests = listed(one[:12] for one in connection.execute(known).scalars())
                raise UnknownName(f"no policy {shown(digest)}; newest first: {digests}")
        return found

    def snapshot(self, digest: str) -> Snapshot:
        """The snapshot with this content; the newest if it was taken in several places.

        Raises:
            UnknownName: there is none; the message lists the newest ones.
        """
        newest = t.snapshots.c.seq.desc()
        query = select(t.snapshots.c.content).where(t.snapshots.c.digest == digest)
        with self._reading() as connection:
            content = connection.execute(query.order_by(newest).limit(1)).scalar()
            if content is None:
                known = select(t.snapshots.c.digest, t.snapshots.c.location).order_by(newest)
                there = listed(
                    f"{one.digest[:12]} of {one.location}" for one in connection.execute(known)
                )
                raise UnknownName(f"no snapshot {shown(digest)}; newest first: {there}")
        return record(Snapshot, content)

    def assessment(self, reference: str) -> Assessment | None:
        """The newest assessment of a version; None if it was never assessed.

        Raises:
            UnknownModel: there is no such version.
        """
        found = self.assessments(reference)
        return found[-1] if found else None

    def assessments(self, reference: str) -> list[Assessment]:
        """All assessments of a version, oldest first.

        Raises:
            UnknownModel: there is no such version.
        """
        with self._reading() as connection:
            version = version_row(connection, reference)
            query = select(t.assessments).where(
                t.assessments.c.name == version.name,
                t.assessments.c.version == version.version,
            )
            rows = connection.execute(query.order_by(t.assessments.c.seq))
            return [from_row(Assessment, row) for row in rows]

    def break_glass(self, name: str) -> BreakGlass | None:
        """The broken glass that lets a model serve around its gates now, else None."""
        broken = [one for one in self.broken_glass() if one.name == name]
        return broken[-1] if broken else None

    def broken_glass(self) -> list[BreakGlass]:
        """All glass that is broken now, of any model, oldest first."""
        now_s = self.now_s()
        query = select(t.break_glass).where(
            t.break_glass.c.until_s > now_s, t.break_glass.c.from_s <= now_s
        )
        with self._reading() as connection:
            rows = connection.execute(query.order_by(t.break_glass.c.from_s, t.break_glass.c.id))
            return [from_row(BreakGlass, row) for row in rows]


class GovernedWrites(Writing, GovernedReads):
    """Changes of the facts that rules go by."""

    def declare(self, profile: ModelProfile) -> ModelProfile:
        """Keep what a model is for, in place of what was declared before.

        Who and when are those of this change. The model need not be registered yet.
        """
        declared = profile.model_copy(update={"declared_s": self.at_s, "declared_by": self.actor})
        before = self.profile(profile.name)
        connection = self._open()
        connection.execute(delete(t.profiles).where(t.profiles.c.name == profile.name))
        connection.execute(insert(t.profiles).values(**declared.model_dump(mode="json")))
        self.note(use=declared.use, used_before=before.use)
        return declared

    def set_policy(self, content: dict[str, Any], digest: str) -> None:
        """Let a policy be in force from now on. Setting the one in force changes nothing.

        Raises:
            UsageError: the content is not JSON.
        """
        connection = self._open()
        newest = select(t.policies.c.digest).order_by(t.policies.c.seq.desc()).limit(1)
        self.note(policy=digest)
        if connection.execute(newest).scalar() != digest:
            row = {"digest": digest, "content": content, "at_s": self.at_s, "by": self.actor}
            connection.execute(insert(t.policies).values(**row))

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Keep what is known of a data set. The same one again, from the same place and in the
        same version, is kept once, as it was first taken."""
        connection = self._open()
        same = select(t.snapshots.c.content).where(
            t.snapshots.c.digest == snapshot.digest, t.snapshots.c.location == snapshot.location
        )
        self.note(snapshot=snapshot.digest)
        versions = (snapshot.version, snapshot.feedback_version)
        for content in connection.execute(same).scalars():
            if (content["version"], content["feedback_version"]) == versions:
                return
        row = {"digest": snapshot.digest, "location": snapshot.location}
        content = snapshot.model_dump(mode="json")
        taken = {"content": content, "taken_s": snapshot.taken_s}
        connection.execute(insert(t.snapshots).values(**row, **taken))

    def add_assessment(self, assessment: Assessment) -> None:
        """Keep what the gates found over a version.

        Raises:
            UnknownModel: there is no such version.
            UsageError: it is about another artifact than that of the version.
            IllegalTransition: the id was used before.
        """
        connection = self._open()
        version = version_row(connection, assessment.ref)
        if assessment.artifact_digest != version.artifact["digest"]:
            raise UsageError(
                f"assessment {shown(assessment.id)} is of artifact "
                f"{assessment.artifact_digest[:12]}, but {assessment.ref} is "
                f"{version.artifact['digest'][:12]}; assess {assessment.ref} again"
            )
        try:
            row = assessment.model_dump(mode="json")
            connection.execute(insert(t.assessments).values(**row))
        except IntegrityError:
            raise IllegalTransition(
                f"assessment {shown(assessment.id)} cannot be added: its id was used before"
            ) from None
        self.note(assessment=assessment.digest, passed=assessment.passed)

    def add_break_glass(self, broken: BreakGlass) -> None:
        """Let a model serve around its gates for a few minutes.

        Raises:
            UnknownModel: there is no such model.
            UsageError: it ends later than 15 minutes from now, or before it begins.
            IllegalTransition: the id was used before.
        """
        connection = self._open()
        require_model(connection, broken.name)
        if not broken.from_s < broken.until_s <= self.at_s + LONGEST_BREAK_GLASS_S:
            raise UsageError(
                f"glass can be broken for up to {LONGEST_BREAK_GLASS_S:g} s from now, not from "
                f"{broken.from_s:.0f} to {broken.until_s:.0f}; break it again when it is over"
            )
        try:
            connection.execute(insert(t.break_glass).values(**broken.model_dump(mode="json")))
        except IntegrityError:
            raise IllegalTransition(
                f"break-glass {shown(broken.id)} cannot be added: its id was used before"
            ) from None
        self.note(model=broken.name, reason=broken.reason, until_s=broken.until_s)
