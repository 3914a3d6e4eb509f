import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.batch import Segment, collate, pack
from training.linear_cross_entropy import IGNORED

PADDING = 9


def segment(length, label=7):
    return Segment(np.arange(1, length + 1), np.full(length, label))


units_of_segments = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=2), min_size=1, max_size=25)


@given(units_of_segments, st.integers(1, 30))
def test_every_unit_is_packed_once_and_no_row_overflows(lengths, capacity):
    units = [[segment(length) for length in unit] for unit in lengths]
    rows = pack(units, capacity)
    assert sorted(unit for row in rows for unit in row) == list(range(len(units)))
    for row in rows:
        assert sum(sum(lengths[unit]) for unit in row) <= capacity or len(row) == 1


@given(units_of_segments, st.integers(12, 40))
def test_packing_wastes_no_more_than_first_fit_decreasing_may(lengths, capacity):
    units = [[segment(length) for length in unit if length <= capacity // 2] or [segment(1)] for unit in lengths]
    total = sum(len(part) for unit in units for part in unit)
    # First-fit never leaves two rows that would fit into one.
    rows = pack(units, capacity)
    used = sorted(sum(len(part) for unit in row for part in units[unit]) for row in rows)
    assert len(used) == 1 or used[0] + used[1] > capacity
    assert len(rows) >= -(-total // capacity)


def test_equal_units_are_packed_in_the_given_order():
    assert pack([[segment(5)] for _ in range(5)], 10) == [[0, 1], [2, 3], [4]]


@given(st.integers(2, 20), st.data())
def test_labels_are_the_next_token_and_only_where_it_is_learned(length, data):
    ids = np.array(data.draw(st.lists(st.integers(0, 99), min_size=length, max_size=length)))
    learned = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    made = Segment.from_ids(ids, learned)
    assert len(made) == length - 1
    for place in range(length - 1):
        assert made.tokens[place] == ids[place]
        assert made.labels[place] == (ids[place + 1] if learned[place + 1] else IGNORED)
    assert made.learned == sum(learned[1:])


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4))
def test_collated_rows_hold_each_segment_and_nothing_else(rows):
    made = [[segment(length, label=10 + length) for length in row] for row in rows]
    batch = collate(made, PADDING)
    assert batch.tokens.shape == (len(rows), max(map(sum, rows)))
    number = 0
    for r, row in enumerate(made):
        for part in row:
            here = batch.sequences[r] == number
            assert batch.tokens[r][here].tolist() == part.tokens.tolist()
            assert batch.labels[r][here].tolist() == part.labels.tolist()
            assert batch.positions[r][here].tolist() == list(range(len(part)))
            assert len(set(batch.segments[r][here].tolist())) == 1
            number += 1
        padding = batch.segments[r] == 0
        assert (batch.tokens[r][padding] == PADDING).all()
        assert (batch.labels[r][padding] == IGNORED).all()
        assert (batch.sequences[r][padding] == -1).all()
    assert int(batch.sequences.max()) + 1 == number


def test_mask_lets_a_query_see_its_own_segment_and_not_ahead():
    batch = collate([[segment(2), segment(3)], [segment(4)]], PADDING)
    mask = batch.mask()
    assert mask.shape == (2, 1, 5, 5)
    for row in range(2):
        for query in range(5):
            for key in range(5):
                same = batch.segments[row, query] == batch.segments[row, key]
                assert mask[row, 0, query, key] == (bool(same) and key <= query)
    assert mask.any(-1).all(), "a query that sees nothing gives NaN in the softmax"


def test_a_batch_moves_with_all_its_parts():
    batch = collate([[segment(2)]], PADDING)
    moved = batch.to(torch.device("meta"))
    assert moved.tokens.device.type == moved.sequences.device.type == "meta"
    assert moved.reference is None


@pytest.mark.parametrize("length", [1, 31])
def test_a_unit_longer_than_the_capacity_stands_alone(length):
    rows = pack([[segment(length)], [segment(1)], [segment(40)]], 30)
    assert [2] in rows
