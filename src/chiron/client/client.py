"""The desk: where every call is asked. Ledger first, then one request for all who ask the same, within limits and budget."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from chiron.client.budget import AttemptRecord, Budget, Reservation
from chiron.client.call import Call, ImagePart, Provider, Reply, TextPart
from chiron.client.config import Price
from chiron.client.failures import (
    CallerFault,
    CallFailed,
    ConfigurationError,
    EndpointDown,
    RateLimited,
    RunStopped,
    Transient,
    UserStopped,
)
from chiron.client.finish_reasons import MORE_SPACE, finish_note
from chiron.client.ledger import Ledger
from chiron.client.limiter import Blame, Limiter, Standing
from chiron.client.missing_calls import FailureRates, UnitAsk
from chiron.client.retry import Elapsed, RetryPolicy, retry_call
from chiron.errors import ChironError, DiskError

DOWN_AFTER = 10
"""Calls to one endpoint that fail for good in a row, before the run stops rather than waste what the others answer."""


@dataclass
class Endpoint:
    """One configured model, with its door and its state."""

    provider: Provider
    limiter: Limiter
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    price: Price | None = None
    image_tokens: int = 4096
    has_answered: bool = False
    failed_in_a_row: int = 0
    cost_overrun: float = 1.0
    """How many times more than the bound a reply once cost; later bounds are raised by it, also in later processes of the same run."""

    def max_cost(self, call: Call) -> float:
        """USD. A token is at least a byte of UTF-8, so bytes bound the prompt; images are bounded by configuration."""
        if self.price is None:
            return 0.0
        parts = [part for message in call.messages for part in message.parts]
        text = sum(len(p.text.encode("utf-8", "surrogatepass")) for p in parts if isinstance(p, TextPart))
        pictures = sum(isinstance(p, ImagePart) for p in parts)
        prompt = text + pictures * self.image_tokens + 16 * (len(call.messages) + 1)
        return self.cost_overrun * (prompt * self.price.input + call.max_tokens * self.price.output) / 1e6

    @property
    def bound(self) -> str:
        """Names whose calls these are and what bounds their cost: a ``surprise`` holds for it, and not where that was mended."""
        price = "" if self.price is None else f" at {self.price.input:g}/{self.price.output:g}"
        return f"{self.provider.identity}{price}, {self.image_tokens} an image"

    def cost(self, call: Call, reply: Reply) -> float | None:
        """USD, ``None`` without a price. An endpoint that does not count its tokens is taken at the most it can cost."""
        if self.price is None:
            return None
        prompt, completion = reply.usage.prompt_tokens, reply.usage.completion_tokens
        if prompt is None or completion is None:
            return self.max_cost(call)
        return (prompt * self.price.input + completion * self.price.output) / 1e6


@dataclass
class Count:
    """Live counts of one model in one role, since this process began."""

    asked: int = 0
    """Answered by the endpoint."""
    free: int = 0
    """Answered by the ledger."""
    in_flight: int = 0
    """Asked and not yet answered, the queue included."""
    retries: int = 0
    failed: int = 0


class ModelClient:
    """Asks. Everything that :func:`chiron.mics.search.search` must not know is known here."""

    def __init__(self, endpoints: Mapping[str, Endpoint], ledger: Ledger, budget: Budget | None = None) -> None:
        """``endpoints`` by configured name."""
        self.endpoints = dict(endpoints)
        self.ledger = ledger
        self.budget = budget if budget is not None else Budget(None)
        self.counts: defaultdict[tuple[str, str], Count] = defaultdict(Count)
        self.halted: RunStopped | DiskError | None = None
        self.shares = FailureRates()
        self._notes: dict[str, str] = {}
        self._thoughts: Counter[str] = Counter()
        self._pending: dict[str, asyncio.Task[Reply]] = {}
        self._stopped = asyncio.Event()
        for name, endpoint in self.endpoints.items():
            if (times := ledger.cost_overrun(endpoint.bound)) > endpoint.cost_overrun:
                endpoint.cost_overrun = times
                self._note_surprise(name, endpoint)
        ledger.take_over_attempts()
        ledger.keep_words_from_here()
        lost, usd = ledger.lost_attempts()
        if lost:
            self._notes["lost"] = (
                f"${usd:.4f} of what is spent is possibly so: {lost} calls were under way when a process was killed, and count at the"
                " most they can cost"
            )

    def note(self, name: str, text: str) -> None:
        """Keep something that a person should know in the end; of one ``name`` the last stands."""
        self._notes[name] = text

    @property
    def notes(self) -> dict[str, str]:
        """What a person should know in the end, by what it is about."""
        return {**self._notes, **self._outage_notes(), **self.shares.notes()}

    def _outage_notes(self) -> dict[str, str]:
        return {
            f"outage {name}": f"model '{name}' was down for {outage.seconds_down:.0f} s ({outage.times_down} times):"
            " its calls waited until it answered again"
            for name, endpoint in self.endpoints.items()
            if (outage := endpoint.limiter.outage).times_down
        }

    def down(self) -> list[str]:
        """A line on each model whose queue is held now, because its endpoint answers nothing."""
        return [
            f"{name}: no answer for {endpoint.limiter.seconds_down():.0f} s; its calls wait while one at a time is tried;"
            f" the run stops after {endpoint.retry.outage:g} s"
            for name, endpoint in self.endpoints.items()
            if endpoint.limiter.held
        ]

    def line(self, rank: int) -> UnitAsk:
        """An ``ask`` whose calls go before those of higher rank."""

        async def ask(call: Call) -> Reply:
            return await self.ask(call, rank)

        return UnitAsk(ask)

    async def ask(self, call: Call, rank: int = 0) -> Reply:
        """The reply to ``call``: from the ledger, from a call of the same key under way, or from its endpoint.

        Raises:
            CallFailed: no answer could be had.
            Halted: the run sends no more calls.
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
        # Shielded: a case that goes away must not take a paid call with it, nor the other cases that wait for it.
        return await asyncio.shield(task)

    def halt(self, reason: RunStopped | DiskError) -> None:
        """Send nothing more. What is under way is still received and kept."""
        if self.halted is None:
            self.halted = reason
            self._stopped.set()
            for endpoint in self.endpoints.values():
                endpoint.limiter.close(reason)

    def stop(self) -> None:
        """Halt because a person asked for it."""
        self.halt(UserStopped("stopped"))

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._pending:
            await asyncio.wait(list(self._pending.values()))

    async def close(self) -> None:
        """Drop what is under way, and let go of connections."""
        for task in list(self._pending.values()):
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        for endpoint in self.endpoints.values():
            await endpoint.provider.close()

    async def _reserve(self, call: Call, endpoint: Endpoint) -> Reservation:
        """Set the most aside that the call can cost; while it waited for that, the run may have halted, or a surprise have raised it."""
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
            task.exception()  # looked at, so that a case that went away leaves no warning behind

    async def _fetch(self, call: Call, rank: int, count: Count) -> Reply:
        endpoint = self.endpoints[call.model]
        bill, spent, attempts = AttemptRecord(call, self.ledger), Elapsed(), 0
        standing = Standing(endpoint.limiter.outage, call.key, mentor=call.role == "mentor")
        policy = endpoint.retry.for_mentors() if standing.mentor else endpoint.retry
        count.in_flight += 1

        async def attempt() -> Reply:
            nonlocal attempts
            async with endpoint.limiter.slot(rank) as epoch:
                reservation = await self._reserve(call, endpoint)
                attempts += 1
                standing.sent()
                count.retries += attempts > 1
                began = asyncio.get_running_loop().time()
                try:
                    reply = await self._attempt(call, endpoint, epoch, reservation, bill)
                finally:
                    spent.last_attempt = asyncio.get_running_loop().time() - began
                return replace(reply, attempts=attempts)

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
        """Whose fault a failed attempt is; hold the queue while the endpoint answers nobody.

        Raises:
            EndpointDown: it has answered nothing for too long.
        """
        now = asyncio.get_running_loop().time()
        outage, policy = standing.outage, endpoint.retry
        blame = standing.blame(now, limited=isinstance(failure, RateLimited))
        if outage.is_down:
            endpoint.limiter.hold(policy.first_wait, policy.longest_wait)
        if blame is not Blame.ENDPOINT:
            return blame
        if not outage.answers and standing.uncounted >= policy.attempts:
            # More likely a wrong address, or a server that is not started yet, than an outage: no reason to wait for long.
            raise EndpointDown(
                f"model '{call.model}' has answered nothing yet, and a call failed {standing.uncounted} times in a row, the last time so:"
                f" {failure.public}; run the same command again once it answers"
            ) from failure
        if (down := outage.seconds(now)) >= policy.outage:
            raise EndpointDown(
                f"model '{call.model}' failed every call for {down / 60:.0f} min, the last so: {failure.public}; run the same command again"
                " when it is back"
            ) from failure
        return blame

    def _remark(self, call: Call, reply: Reply) -> None:
        """Keep what a person should know of how replies end."""
        if reply.only_thinking:
            self._thoughts[call.model] += 1
            self._notes[f"thinking {call.model}"] = (
                f"{self._thoughts[call.model]} replies of model '{call.model}' were nothing but thinking, and count as replies without an"
                f" answer: {MORE_SPACE}; a server that splits off thinking (--reasoning-parser) must know this model's marks"
            )
        elif note := finish_note(reply.finish):
            self._notes[f"finish {call.model}"] = f"model '{call.model}': {note}"

    async def _attempt(self, call: Call, endpoint: Endpoint, epoch: int, reservation: Reservation, bill: AttemptRecord) -> Reply:
        """Send it once; the limiter hears how it went, and budget and ledger what it cost."""
        most, cost = reservation.amount, 0.0
        try:
            bill.begin(most, on_record=self.budget.limit is not None)
            reply = await endpoint.provider.complete(call)
            cost = endpoint.cost(call, reply) or 0.0
            endpoint.limiter.succeeded()
        except RateLimited as failure:
            bill.not_billed()
            if failure.retry_after is not None and failure.retry_after > endpoint.retry.deadline:
                # Nobody could wait for it. To fail this call, and soon all the others, would cost evaluations; to stop costs nothing.
                raise EndpointDown(
                    f"model '{call.model}' takes no call for another {failure.retry_after:.0f} s, longer than its deadline"
                    f" ({endpoint.retry.deadline:g} s): {failure.public}. Run the same command again then"
                ) from failure
            endpoint.limiter.rate_limited(epoch, failure.retry_after)
            raise
        except CallFailed as failure:
            cost = bill.maybe_billed(failure.kind, failure.public) if failure.maybe_billed else bill.not_billed()
            raise
        except asyncio.CancelledError:
            cost = bill.maybe_billed("cancelled", "dropped while under way")
            raise
        except ChironError:
            bill.not_billed()
            raise
        except Exception as error:
            # A reply can be odd in ways that nobody thought of; that is this call's failure, not the run's.
            odd = Transient(f"{call.model}: {type(error).__name__} while reading its reply", maybe_billed=True)
            cost = bill.maybe_billed(odd.kind, str(odd))
            raise odd from error
        finally:
            await reservation.settle(cost)
        if cost > most:
            self._surprised(call, endpoint, cost)
        return replace(reply, cost_usd=None if endpoint.price is None else cost)

    async def _wait(self, seconds: float) -> None:
        """Wait between attempts, or until the run stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _surprised(self, call: Call, endpoint: Endpoint, cost: float) -> None:
        """A reply cost more than any was thought to: its image tokens are set too low, or the endpoint counts in a way of its own."""
        # Against the bare bound: others in flight were reserved under the same one, and must not multiply it again.
        bare = endpoint.max_cost(call) / endpoint.cost_overrun
        times = cost / bare if bare else 1.0
        if times > endpoint.cost_overrun:
            endpoint.cost_overrun = times
            self.ledger.keep_surprise(endpoint.bound, times)
        self._note_surprise(call.model, endpoint)

    def _note_surprise(self, name: str, endpoint: Endpoint) -> None:
        self._notes[name] = (
            f"model '{name}' charged for more tokens than its limits allow: raise its image_tokens (now {endpoint.image_tokens});"
            " until then more is set aside for its calls"
        )

    def _note(self, call: Call, endpoint: Endpoint, failure: CallFailed) -> None:
        """Keep the failure; halt the run where it tells of more than this call."""
        try:
            self.ledger.note_failure(call, failure.kind, failure.public, final=True)
        except DiskError as reason:
            self.halt(reason)
            raise
        self.shares.failed(call.model, call.temperature, failure.public)
        misconfigured = isinstance(failure, CallerFault) and failure.misconfigured
        if misconfigured and not endpoint.has_answered:
            self.halt(ConfigurationError(f"model '{call.model}' refuses every call: {failure.public}"))
        elif misconfigured or not isinstance(failure, CallerFault) or not endpoint.has_answered:
            endpoint.failed_in_a_row += 1
            if endpoint.failed_in_a_row >= DOWN_AFTER and isinstance(failure, CallerFault):
                self.halt(ConfigurationError(f"model '{call.model}' refused {DOWN_AFTER} calls in a row, the last so: {failure.public}"))
            elif endpoint.failed_in_a_row >= DOWN_AFTER:
                self.halt(
                    EndpointDown(
                        f"model '{call.model}' failed {DOWN_AFTER} calls in a row, the last so: {failure.public}; run again when it is back"
                    )
                )
