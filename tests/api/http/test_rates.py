from api.http.rates import MOST_TOLD, Rates


def test_processes_that_tell_each_other_keep_one_limit_together() -> None:
    one, other = Rates(60), Rates(60)
    for rates in (one, other):
        assert [rates.take("proj_a")[1] for _ in range(30)] == [0] * 30
    words = [rates.word(rates.tell()) for rates in (one, other)]
    for word in words:
        one.hear(word)
        other.hear(word)
    assert [rates.take("proj_a")[1] for rates in (one, other)] == [1, 1]
    assert dict(one.take("proj_a")[0])[b"x-ratelimit-remaining-requests"] == b"0"
    assert [rates.take("proj_b")[1] for rates in (one, other)] == [0, 0]
    one.hear(other.word(other.tell() + other.tell()))
    assert not other.tell(), "each request is told once"
    for number in range(1_000):
        one.take(f"proj_{number:024}")
    assert len(one.word(one.tell())) < 8_000
    assert len(one.tell()) == MOST_TOLD, "the others are in the next word"
