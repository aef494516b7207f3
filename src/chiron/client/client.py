"""The model client, which sends every call: ledger first, then one request per distinct call, within rate limits and budget."""

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from chiron.client.attempts import AttemptRecord, Budget, Elapsed, Reservation, retry_call
from chiron.client.batch import open_queues
from chiron.client.call import MORE_SPACE, Ask, Call, Reply, finish_note
from chiron.client.failures import (
    CallerFault,
    CallFailed,
    ConfigurationError,
    EndpointDown,
    FailureRates,
    RateLimited,
    RunStopped,
    Submitted,
    Transient,
    UnitAsk,
    UserStopped,
)
from chiron.client.ledger import Ledger
from chiron.client.limiter import SEVERAL, Blame, Standing
from chiron.client.provider import Endpoint
from chiron.errors import ChironError, DiskError

_log = logging.getLogger(__name__)
_IN_SUMMARY = {"in_summary": True}
"""Marks log records whose content is also a note or the halt of the run's summary, so that a command line can print it once."""
DOWN_AFTER = 10
"""Consecutive failed calls to one endpoint after which the run stops, so that no more money is spent on the other models."""


@dataclass
class Count:
    """Live counts of one model in one role, since this process started."""

    asked: int = 0
    """Answered by the endpoint."""
    free: int = 0
    """Answered from the ledger, or by a call already in flight."""
    in_flight: int = 0
    """Calls without an answer yet, including queued ones."""
    retries: int = 0
    failed: int = 0


class ModelClient:
    """Send calls to models and store their replies.

    It contains everything that :func:`chiron.mics.search.search` does not need to know: endpoints, limits, retries, ledger and budget.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], ledger: Ledger, budget: Budget | None = None) -> None:
        """Create a client. ``endpoints``: by configured name."""
        self.endpoints = dict(endpoints)
        self.ledger = ledger
        self.budget = budget if budget is not None else Budget(None)
        self.counts: defaultdict[tuple[str, str], Count] = defaultdict(Count)
        self.halted: RunStopped | DiskError | None = None
        self.answers: Callable[[int], Ask] | None = None
        """Returns what answers the calls of a unit, by its rank and also after a halt, if other processes have sent the calls."""
        self.shares = FailureRates()
        self._notes: dict[str, str] = {}
        self._thoughts: Counter[str] = Counter()
        self._pending: dict[str, asyncio.Task[Reply]] = {}
        self._stopped = asyncio.Event()
        self.units: set[UnitAsk] = set()
        """Units of the job that run now."""
        queues = {name: endpoint.batch for name, endpoint in self.endpoints.items()}
        self._queued, unsent = open_queues(queues, ledger, all_wait=self._all_wait)
        self._queues = [queue for queue in queues.values() if queue is not None]
        self.budget.release(unsent)
        for name, endpoint in self.endpoints.items():
            if (times := ledger.cost_overrun(endpoint.pricing_key)) > endpoint.cost_overrun:
                endpoint.cost_overrun = times
                self._note_surprise(name, endpoint)
        ledger.take_over_attempts()
        ledger.keep_words_from_here()
        lost, usd = ledger.lost_attempts()
        if lost:
            self.note(
                "lost",
                f"${usd:.4f} of the money spent is an upper limit: {lost} calls were in flight when a process was killed; each counts with"
                " its maximum cost",
            )

    def _all_wait(self) -> bool:
        """Return whether nothing continues before a batch ends: every unit waits for replies, and no other call is in flight."""
        others = any(count.in_flight for (model, _), count in self.counts.items() if self.endpoints[model].batch is None)
        # Calls that wait for money may wait for what the calls in the queue have reserved.
        return (not others or self.budget.waiting > 0) and all(unit.waiting for unit in self.units)

    def note(self, name: str, text: str) -> None:
        """Keep a note for the final summary. A later note with the same ``name`` replaces it."""
        if name not in self._notes:
            _log.warning("%s", text, extra=_IN_SUMMARY)
        self._notes[name] = text

    @property
    def notes(self) -> dict[str, str]:
        """Notes for the final summary, by name."""
        left = {name: text for queue in self._queues for name, text in queue.notes().items()}
        return {**self._notes, **self._outage_notes(), **self.shares.notes(), **left}

    def _outage_notes(self) -> dict[str, str]:
        return {
            f"outage {name}": f"model '{name}' was down for {outage.seconds_down:.0f} s ({outage.times_down} times):"
            " its calls waited until it answered again"
            for name, endpoint in self.endpoints.items()
            if (outage := endpoint.limiter.outage).times_down
        }

    def down(self) -> list[str]:
        """One line for each model whose queue is on hold because its endpoint does not answer."""
        return [
            f"{name}: no answer for {endpoint.limiter.seconds_down():.0f} s; its calls wait while one at a time is tried;"
            f" the run stops after {endpoint.retry.outage:g} s"
            for name, endpoint in self.endpoints.items()
            if endpoint.limiter.held
        ]

    def batches(self) -> list[str]:
        """Describe the batches in progress, one line each."""
        return [line for queue in self._queues for line in queue.lines()]

    def with_priority(self, rank: int) -> UnitAsk:
        """Return an ``ask`` whose calls are sent before those with a higher rank."""
        return UnitAsk(self.answers(rank) if self.answers is not None else lambda call: self.ask(call, rank))

    async def ask(self, call: Call, rank: int = 0) -> Reply:
        """Return the reply to ``call``: from the ledger, from an identical call in flight, or from its endpoint.

        Raises:
            CallFailed: the call got no answer.
            RunStopped: the run sends no more calls.
            DiskError: the ledger cannot be written.
        """
        count = self.counts[call.model, call.role]
        reply = self.ledger.get(call.key)
        if reply is not None:
            count.free += 1
            return reply
        task = self._pending.get(call.key)
        if task is None:
            if self.halted is not None:
                raise self.halted.with_traceback(None)
            task = asyncio.create_task(self._fetch(call, rank, count))
            self._pending[call.key] = task
            task.add_done_callback(lambda done: self._forget(call.key, done))
        else:
            count.free += 1
        # Shielded: cancelling one case must not cancel a paid call that other cases may wait for.
        return await asyncio.shield(task)

    def halt(self, reason: RunStopped | DiskError) -> None:
        """Send no more calls. Replies to calls in flight are still received and stored."""
        if self.halted is None:
            level = logging.INFO if isinstance(reason, UserStopped | Submitted) else logging.WARNING
            _log.log(level, "no more calls are sent: %s", reason, extra=_IN_SUMMARY)
            self.halted = reason
            self._stopped.set()
            self.budget.closed = reason
            for endpoint in self.endpoints.values():
                endpoint.limiter.close(reason)
            for queue in self._queues:
                queue.halt(reason)

    def stop(self) -> None:
        self.halt(UserStopped("stopped"))

    async def drain(self) -> None:
        while self._pending:
            await asyncio.wait(list(self._pending.values()))

    async def close(self) -> None:
        """Cancel the calls in flight and close all connections."""
        for task in list(self._pending.values()):
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        for queue in self._queues:
            await queue.close()
        for endpoint in self.endpoints.values():
            await endpoint.provider.close()

    async def _reserve(self, call: Call, endpoint: Endpoint, bill: AttemptRecord) -> Reservation:
        """Reserve the maximum cost of the call, or continue the reservation of the batch that contains it.

        While waiting, the run may halt or the cost limit may rise, so both are checked again.
        """
        if endpoint.batch is not None and call.key in self._queued:
            attempt, usd = self._queued.pop(call.key)
            bill.take_over(attempt)
            return self.budget.take_over(usd)
        while True:
            most = endpoint.max_cost(call)
            if self.halted is not None:
                raise self.halted.with_traceback(None)
            reservation = await self.budget.reserve(most)
            if not self._stopped.is_set() and endpoint.max_cost(call) <= most:
                return reservation
            await reservation.settle(0.0)

    def _forget(self, key: str, task: asyncio.Task[Reply]) -> None:
        self._pending.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieve the exception, so that asyncio does not warn about it if the case was canceled

    async def _fetch(self, call: Call, rank: int, count: Count) -> Reply:
        endpoint = self.endpoints[call.model]
        bill, spent, attempts = AttemptRecord(call, self.ledger, in_batch=endpoint.batch is not None), Elapsed(), 0
        standing = Standing(endpoint.limiter.outage, call.key, mentor=call.role == "mentor")
        policy = endpoint.retry.for_mentors() if standing.mentor else endpoint.retry
        count.in_flight += 1

        async def attempt() -> Reply:
            nonlocal attempts
            async with endpoint.limiter.slot(rank) as epoch:
                reservation = await self._reserve(call, endpoint, bill)
                attempts += 1
                standing.sent()
                count.retries += attempts > 1
                began = asyncio.get_running_loop().time()
                try:
                    reply = await self._attempt(call, endpoint, epoch, reservation, bill)
                finally:
                    spent.last_attempt = asyncio.get_running_loop().time() - began
                return reply if attempts == reply.attempts else replace(reply, attempts=attempts)

        try:
            reply = await retry_call(
                attempt,
                policy,
                spent=spent,
                blame=lambda failure: self._blame(call, endpoint, standing, failure),
                sleep=self._wait,
            )
            bill.paid(reply)
        except CallFailed as failure:
            count.failed += 1
            self._note(call, endpoint, failure)
            raise
        except (RunStopped, DiskError) as reason:
            self.halt(reason)
            raise
        finally:
            count.in_flight -= 1
        count.asked += 1
        self._remark(call, reply)
        self.shares.answered(call.model, call.temperature)
        endpoint.has_answered, endpoint.failed_in_a_row = True, 0
        return reply

    def _blame(self, call: Call, endpoint: Endpoint, standing: Standing, failure: CallFailed) -> Blame:
        """Decide what caused a failed attempt, and hold the queue while the endpoint is down.

        Raises:
            EndpointDown: the endpoint has not answered for too long.
        """
        if endpoint.batch is not None:
            return Blame.CALL  # the queue waits for the provider itself, so only this request failed
        now = asyncio.get_running_loop().time()
        outage, policy = standing.outage, endpoint.retry
        blame = standing.blame(now, limited=isinstance(failure, RateLimited))
        _log.info("a call of model '%s' failed (cause: %s): %s", call.model, blame.name.lower(), failure.public)
        if not outage.answers and outage.in_a_row == SEVERAL and not isinstance(failure, RateLimited):
            # Retries take a minute or more, and the address may be wrong.
            _log.warning("model '%s' has not answered yet, its calls are tried again: %s", call.model, failure.public)
        if outage.is_down:
            if not endpoint.limiter.held:
                _log.warning("model '%s' does not answer: its calls wait, and one at a time is tried", call.model)
            endpoint.limiter.hold(policy.first_wait, policy.longest_wait)
        if blame is not Blame.ENDPOINT:
            return blame
        if not outage.answers and standing.uncounted >= policy.attempts:
            # More likely a wrong address or a server that has not started than an outage, so do not wait for long.
            raise EndpointDown(
                f"model '{call.model}' has not answered yet, and a call failed {standing.uncounted} times in a row, most recently with:"
                f" {failure.public}; run the same command again once it answers"
            ) from failure
        if (down := outage.seconds(now)) >= policy.outage:
            raise EndpointDown(
                f"model '{call.model}' failed every call for {down / 60:.0f} min, most recently with: {failure.public}; run the same"
                " command again when it answers"
            ) from failure
        return blame

    def _remark(self, call: Call, reply: Reply) -> None:
        """Keep a note if the reply ended in an unusual way."""
        if reply.only_thinking:
            self._thoughts[call.model] += 1
            self.note(
                f"thinking {call.model}",
                f"{self._thoughts[call.model]} replies of model '{call.model}' contain only thinking, and count as replies without an"
                f" answer: {MORE_SPACE}; a server that separates thinking (--reasoning-parser) must know this model's marks",
            )
        elif note := finish_note(reply.finish):
            self.note(f"finish {call.model}", f"model '{call.model}': {note}")

    async def _attempt(self, call: Call, endpoint: Endpoint, epoch: int, reservation: Reservation, bill: AttemptRecord) -> Reply:
        """Send the call once, and report the result to the limiter and its cost to budget and ledger."""
        most, cost = reservation.amount, 0.0
        try:
            bill.begin(most, on_record=self.budget.limit is not None)
            reply = await (endpoint.provider if endpoint.batch is None else endpoint.batch).complete(call)
            cost = endpoint.cost(call, reply) or 0.0
            if endpoint.limiter.held:
                _log.warning("model '%s' answers again after %.0f s", call.model, endpoint.limiter.seconds_down())
            endpoint.limiter.succeeded()
        except RateLimited as failure:
            bill.not_billed()
            if failure.retry_after is not None and failure.retry_after > endpoint.retry.deadline:
                # The wait is longer than any deadline. Failing this call and the following ones would lose evaluations; stopping loses
                # nothing.
                raise EndpointDown(
                    f"model '{call.model}' accepts no call for another {failure.retry_after:.0f} s, longer than its deadline"
                    f" ({endpoint.retry.deadline:g} s): {failure.public}. Run the same command again then"
                ) from failure
            endpoint.limiter.rate_limited(epoch, failure.retry_after)
            raise
        except CallFailed as failure:
            cost = bill.maybe_billed(failure.kind, failure.public) if failure.maybe_billed else bill.not_billed()
            raise
        except asyncio.CancelledError:
            cost = bill.maybe_billed("cancelled", "dropped while under way") if endpoint.batch is None else bill.leave()
            raise
        except ChironError:
            # The provider runs and bills what was sent, even if its collection failed here.
            cost = bill.leave() if endpoint.batch is not None and endpoint.batch.has(call.key) else bill.not_billed()
            raise
        except Exception as error:
            # Replies can be malformed in unforeseen ways. That fails this call, not the run.
            odd = Transient(f"{call.model}: {type(error).__name__} while reading its reply", maybe_billed=True)
            cost = bill.maybe_billed(odd.kind, str(odd))
            raise odd from error
        finally:
            await reservation.settle(cost)
        if cost > most:
            self._surprised(call, endpoint, cost)
        cost_usd = None if endpoint.price is None else cost
        return reply if cost_usd == reply.cost_usd else replace(reply, cost_usd=cost_usd)

    async def _wait(self, seconds: float) -> None:
        """Wait between attempts, or until the run stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _surprised(self, call: Call, endpoint: Endpoint, cost: float) -> None:
        """Raise the endpoint's cost limit after a reply that cost more than :meth:`Endpoint.max_cost`.

        Either ``image_tokens`` is set too low, or the endpoint counts tokens differently.
        """
        # Compare with the limit without overrun. Other calls in flight used the same limit and must not multiply the overrun again.
        bare = endpoint.max_cost(call) / endpoint.cost_overrun
        times = cost / bare if bare else 1.0
        if times > endpoint.cost_overrun:
            endpoint.cost_overrun = times
            self.ledger.keep_surprise(endpoint.pricing_key, times)
        self._note_surprise(call.model, endpoint)

    def _note_surprise(self, name: str, endpoint: Endpoint) -> None:
        self.note(
            name,
            f"model '{name}' charged for more tokens than its limits allow: raise its image_tokens (now {endpoint.image_tokens});"
            " until then, more is reserved for its calls",
        )

    def _note(self, call: Call, endpoint: Endpoint, failure: CallFailed) -> None:
        """Record the failure, and halt the run if the failure affects more than this call."""
        try:
            self.ledger.note_failure(call, failure.kind, failure.public, final=True)
        except DiskError as reason:
            self.halt(reason)
            raise
        self.shares.failed(call.model, call.temperature, failure.public)
        if endpoint.batch is not None and endpoint.has_answered:
            return  # in a batch that brought answers, failures in a row mean nothing
        misconfigured = isinstance(failure, CallerFault) and failure.misconfigured
        if misconfigured and not endpoint.has_answered:
            self.halt(ConfigurationError(f"model '{call.model}' rejects every call: {failure.public}"))
        elif misconfigured or not isinstance(failure, CallerFault) or not endpoint.has_answered:
            endpoint.failed_in_a_row += 1
            if endpoint.failed_in_a_row >= DOWN_AFTER and isinstance(failure, CallerFault):
                self.halt(
                    ConfigurationError(f"model '{call.model}' rejected {DOWN_AFTER} calls in a row, most recently with: {failure.public}")
                )
            elif endpoint.failed_in_a_row >= DOWN_AFTER:
                self.halt(
                    EndpointDown(
                        f"model '{call.model}' failed {DOWN_AFTER} calls in a row, most recently with: {failure.public};"
                        " run again when it answers"
                    )
                )
