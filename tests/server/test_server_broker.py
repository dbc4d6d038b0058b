"""The broker: one evaluation per job at a time, nothing lost, the best first, bad ones given up."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from nomadpy.model.evaluation import Evaluation
from nomadpy.model.time import SECOND
from nomadpy.server.broker import DELIVERY_LIMIT, NACK_TIMEOUT_NS, Broker, Delivery, cancelled


def make_eval(name: str, job: str = "job", **changes: object) -> Evaluation:
    return Evaluation(id=name, namespace="default", job_id=job, priority=50, status="pending").replace(**changes)


def names(deliveries: list[Delivery]) -> list[str]:
    return [delivery.evaluation.id for delivery in deliveries]


def filled(*evaluations: Evaluation) -> Broker:
    broker = Broker()
    for evaluation in evaluations:
        broker.enqueue(evaluation, 0)
    return broker


def test_higher_priority_goes_first_then_the_older() -> None:
    broker = filled(
        make_eval("late", "a", create_index=9),
        make_eval("early", "b", create_index=3),
        make_eval("urgent", "c", priority=90, create_index=12),
    )
    assert names(broker.dequeue(0, 2)) == ["urgent", "early"]
    assert names(broker.dequeue(0, 9)) == ["late"]


def test_one_evaluation_of_a_job_at_a_time_and_the_rest_cancelled() -> None:
    broker = filled(*(make_eval(f"e{n}", create_index=n, modify_index=n) for n in range(4)))
    (first,) = broker.dequeue(0, 9)
    assert first.evaluation.id == "e0"
    assert broker.dequeue(0, 9) == []
    assert broker.ack(first, 0)
    (second,) = broker.dequeue(0, 9)
    assert second.evaluation.id == "e3"
    assert {e.id for e in broker.take_cancelable()} == {"e1", "e2"}
    assert broker.take_cancelable() == []
    assert broker.ack(second, 0)
    assert broker.statistics().ready == 0


def test_jobs_of_one_name_in_two_namespaces_do_not_wait_for_each_other() -> None:
    broker = filled(make_eval("a"), make_eval("b", namespace="other"))
    assert len(broker.dequeue(0, 9)) == 2


def test_what_is_given_back_waits_longer_each_time_and_then_has_failed() -> None:
    broker, now, waits = filled(make_eval("e")), 0, []
    while deliveries := broker.dequeue(now, 1):
        assert broker.nack(deliveries[0], now)
        due = broker.next_deadline()
        if due is None:
            break
        assert broker.dequeue(due - 1, 1) == []
        waits.append((due - now) // SECOND)
        now = due
    assert waits == [1, 20]
    assert len(waits) + 1 == DELIVERY_LIMIT
    assert [e.id for e in broker.take_failed()] == ["e"]


def test_an_acknowledged_delivery_starts_counting_anew() -> None:
    broker, now = filled(make_eval("e")), 0
    for _ in range(5):
        (delivery,) = broker.dequeue(now, 1)
        broker.nack(delivery, now)
        (delivery,) = broker.dequeue(now := now + 2 * SECOND, 1)
        broker.ack(delivery, now)
        broker.enqueue(make_eval("e"), now)
    assert broker.take_failed() == []


def test_silence_is_a_refusal() -> None:
    broker = filled(make_eval("e"))
    (delivery,) = broker.dequeue(0, 1)
    assert broker.next_deadline() == NACK_TIMEOUT_NS
    broker.tick(NACK_TIMEOUT_NS)
    assert not broker.ack(delivery, NACK_TIMEOUT_NS)
    (again,) = broker.dequeue(NACK_TIMEOUT_NS + SECOND, 1)
    assert again.token != delivery.token
    assert not broker.nack(delivery, NACK_TIMEOUT_NS + SECOND)
    assert broker.ack(again, NACK_TIMEOUT_NS + SECOND)


def test_a_delay_is_kept() -> None:
    broker = filled(make_eval("e", wait_until_ns=50))
    assert broker.next_deadline() == 50
    assert broker.dequeue(49, 1) == []
    assert names(broker.dequeue(50, 1)) == ["e"]


def test_another_evaluation_of_the_job_may_go_while_one_waits_to_be_tried_again() -> None:
    broker = filled(make_eval("first", create_index=1), make_eval("second", create_index=2))
    (delivery,) = broker.dequeue(0, 9)
    broker.nack(delivery, 0)
    assert names(broker.dequeue(0, 9)) == ["second"]


def test_what_comes_back_while_it_is_out_is_handed_out_again() -> None:
    broker = filled(make_eval("e", modify_index=1))
    (delivery,) = broker.dequeue(0, 1)
    broker.enqueue(make_eval("e", modify_index=2), 0)
    assert broker.dequeue(0, 1) == []
    broker.ack(delivery, 0)
    assert [d.evaluation.modify_index for d in broker.dequeue(0, 1)] == [2]


def test_what_ended_by_other_means_is_not_handed_out_again() -> None:
    broker = filled(make_eval("e", modify_index=1), make_eval("other", create_index=9))
    (delivery,) = broker.dequeue(0, 1)
    broker.enqueue(make_eval("e", modify_index=2), 0)
    broker.forget("e")
    broker.nack(delivery, 0)
    assert names(broker.dequeue(NACK_TIMEOUT_NS, 9)) == ["other"]


def test_an_evaluation_forgotten_and_enqueued_anew_keeps_its_new_delay() -> None:
    broker = filled(make_eval("e", wait_until_ns=50))
    broker.forget("e")
    broker.enqueue(make_eval("e", wait_until_ns=90), 0)
    assert broker.dequeue(60, 1) == []
    assert broker.next_deadline() == 90
    assert names(broker.dequeue(90, 1)) == ["e"]


def test_only_open_evaluations_are_cancelled() -> None:
    evals = [make_eval(status, status=status) for status in ("pending", "blocked", "complete")]
    assert [(e.id, e.status, e.status_description) for e in cancelled(evals, "why")] == [
        ("pending", "canceled", "why"),
        ("blocked", "canceled", "why"),
    ]


class BrokerMachine(RuleBasedStateMachine):
    """Any order of events: each evaluation is in exactly one place until it ends, and a job has one at work."""

    deliveries: Bundle[Delivery] = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.broker, self.now_ns, self.index = Broker(), 0, 0
        self.known: dict[str, Evaluation] = {}
        self.out: dict[str, Delivery] = {}

    @rule(job=st.sampled_from("abc"), priority=st.integers(1, 3), wait=st.sampled_from([0, 0, 5]))
    def enqueue(self, job: str, priority: int, wait: int) -> None:
        self.index += 1
        due = self.now_ns + wait * SECOND if wait else 0
        made = make_eval(
            f"e{self.index}",
            job,
            priority=priority,
            create_index=self.index,
            modify_index=self.index,
            wait_until_ns=due,
        )
        self.known[made.id] = made
        self.broker.enqueue(made, self.now_ns)

    @rule(data=st.data())
    def enqueue_again(self, data: st.DataObject) -> None:
        if self.known:
            self.index += 1
            name = data.draw(st.sampled_from(sorted(self.known)))
            self.known[name] = self.known[name].replace(modify_index=self.index)
            self.broker.enqueue(self.known[name], self.now_ns)

    @rule(target=deliveries)
    def dequeue(self) -> object:
        found = self.broker.dequeue(self.now_ns, 1)
        self.expire()
        if not found:
            return Delivery(make_eval("nothing"), -1)
        (delivery,) = found
        evaluation = delivery.evaluation
        assert evaluation.id in self.known
        assert evaluation.id not in self.out
        assert all(other.evaluation.job_id != evaluation.job_id for other in self.out.values())
        assert evaluation.wait_until_ns <= self.now_ns
        self.out[evaluation.id] = delivery
        self.deadline_of(delivery)
        return delivery

    def deadline_of(self, delivery: Delivery) -> None:
        self.deadlines = getattr(self, "deadlines", {})
        self.deadlines[delivery.token] = self.now_ns + NACK_TIMEOUT_NS

    def expire(self) -> None:
        for name, delivery in list(self.out.items()):
            if self.deadlines[delivery.token] <= self.now_ns:
                del self.out[name]

    @rule(delivery=consumes(deliveries))
    def ack(self, delivery: Delivery) -> None:
        mine = self.out.get(delivery.evaluation.id) == delivery
        before = self.known.get(delivery.evaluation.id)
        assert self.broker.ack(delivery, self.now_ns) == mine
        if mine:
            del self.out[delivery.evaluation.id]
            assert before is not None
            if before.modify_index == delivery.evaluation.modify_index:
                del self.known[delivery.evaluation.id]

    @rule(delivery=consumes(deliveries))
    def nack(self, delivery: Delivery) -> None:
        mine = self.out.get(delivery.evaluation.id) == delivery
        assert self.broker.nack(delivery, self.now_ns) == mine
        if mine:
            del self.out[delivery.evaluation.id]

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        still = sorted(set(self.known) - set(self.out))
        if still:
            name = data.draw(st.sampled_from(still))
            del self.known[name]
            self.broker.forget(name)

    @rule(seconds=st.sampled_from([1, 5, 20, 61]))
    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND

    @rule()
    def sweep(self) -> None:
        for evaluation in (*self.broker.take_cancelable(), *self.broker.take_failed()):
            del self.known[evaluation.id]

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        found = self.broker.statistics()
        total = found.ready + found.unacked + found.pending + found.waiting + found.cancelable + found.failed
        assert min(found.ready, found.pending, found.waiting) >= 0
        assert total == len(self.known)

    def teardown(self) -> None:
        """Whatever state it is in: it can be worked off."""
        for _ in range(500):
            self.now_ns += NACK_TIMEOUT_NS
            for delivery in self.broker.dequeue(self.now_ns, 10):
                self.broker.ack(delivery, self.now_ns)
            self.broker.take_cancelable()
            self.broker.take_failed()
            found = self.broker.statistics()
            if found.ready + found.unacked + found.pending + found.waiting == 0:
                break
        else:
            raise AssertionError(f"never empty: {found}")
        assert self.broker.next_deadline() is None
        assert not self.broker._job_owner
        assert not self.broker._deliveries
        assert not self.broker._again


BrokerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBrokerMachine = BrokerMachine.TestCase
