import pytest

from slm.serving.scheduler import QueueFull, Scheduler
from slm.serving.sequence import Sequence
from slm.settings import SamplingConfig


def request(name, count, client="someone", **more):
    sampling = SamplingConfig(seed=0)
    return [
        Sequence([0], sampling, None, 10, request_id=name, client=client, **more)
        for _ in range(count)
    ]


def admit(scheduler):
    """Fill the batch as far as its rows go; the requests in the order of their turns."""
    order = []
    while len(scheduler.running) < scheduler.max_running:
        newcomer = scheduler.next()
        if newcomer is None:
            break
        scheduler.admit(newcomer)
        scheduler.running.append(newcomer)
        order.append(newcomer.request_id)
    return order


def test_requests_of_one_client_take_turns():
    scheduler = Scheduler(6, 100)
    scheduler.add(request("large", 5))
    scheduler.add(request("small", 2))
    assert admit(scheduler) == ["large", "small", "large", "small", "large", "large"]


def test_clients_take_turns_however_many_requests_they_have():
    scheduler = Scheduler(4, 100)
    for number in range(5):
        scheduler.add(request(f"many {number}", 1, client="many"))
    scheduler.add(request("one", 3, client="one"))
    assert admit(scheduler) == ["many 0", "one", "many 1", "one"]


def test_a_request_whose_sequences_end_at_once_does_not_go_before_others_all_the_same():
    scheduler = Scheduler(1, 100)
    scheduler.add(request("many", 5))
    order = []
    for _ in range(8):
        newcomer = scheduler.next()
        scheduler.admit(newcomer)
        order.append(newcomer.request_id)
        if len(order) == 2:
            scheduler.add(request("later", 3))
    assert order == ["many", "many", "later", "later", "many", "later", "many", "many"]


def test_single_stories_go_in_the_order_they_came():
    scheduler = Scheduler(3, 100)
    for number in range(5):
        scheduler.add(request(str(number), 1))
    assert admit(scheduler) == ["0", "1", "2"]


def test_a_newcomer_takes_a_row_of_who_has_most_but_only_until_they_are_even():
    scheduler = Scheduler(4, 100)
    scheduler.add(request("large", 4))
    admit(scheduler)
    [first, second, third] = request("newcomer", 3)
    assert scheduler.to_preempt(first).request_id == "large"
    scheduler.running[2:] = [first, second]
    assert scheduler.to_preempt(third) is None


def test_single_stories_are_never_preempted_by_one_more_of_the_same_client():
    scheduler = Scheduler(3, 100)
    for number in range(3):
        scheduler.add(request(str(number), 1))
    admit(scheduler)
    assert scheduler.to_preempt(*request("one more", 1)) is None
    assert scheduler.to_preempt(*request("other", 1, client="another")) is not None


def test_a_sequence_that_outruns_its_reader_waits_until_half_is_read():
    scheduler = Scheduler(4, 100)
    [slow] = request("slow", 1, max_unread=10)
    scheduler.add([slow])
    slow.written = 10
    assert slow.outruns_reader
    assert scheduler.next() is None
    slow.read = 4
    assert scheduler.next() is None
    slow.read = 5
    assert scheduler.next() is slow


def test_where_the_queue_is_full_the_largest_request_gives_way_to_a_smaller_one():
    scheduler = Scheduler(2, 8)
    scheduler.add(request("first", 2))
    admit(scheduler)
    scheduler.add(request("larger", 5))
    scheduler.add(request("large", 3))
    assert {s.request_id for s in scheduler.add(request("small", 1))} == {"larger"}
    assert [s.request_id for s in scheduler.waiting] == ["large"] * 3 + ["small"]


def test_a_request_as_large_as_all_others_finds_the_queue_full_and_changes_nothing():
    scheduler = Scheduler(1, 2)
    for number in range(3):
        scheduler.add(request(str(number), 1))
        admit(scheduler)
    waiting = list(scheduler.waiting)
    with pytest.raises(QueueFull, match="The queue is full"):
        scheduler.add(request("one more", 1))
    with pytest.raises(QueueFull):
        scheduler.add(request("many more", 3))
    assert scheduler.waiting == waiting


def test_a_client_with_little_gets_in_beside_one_who_fills_the_queue():
    scheduler = Scheduler(1, 4)
    for number in range(5):
        scheduler.add(request(f"many {number}", 1, client="many"))
        admit(scheduler)
    [given_way] = scheduler.add(request("one", 1, client="one"))
    assert given_way.request_id == "many 4"  # the newest
