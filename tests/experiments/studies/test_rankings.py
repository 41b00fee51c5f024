"""How methods stand: summaries of rows, and the page that is made of them."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import ml_collections
import pytest

from configs import digits
from experiments.report import intervals
from experiments.studies import outcomes
from experiments.studies.methods import (
  figures,
  page,
  rankings,
  standings,
  study,
)

pytestmark = pytest.mark.once

BASES = {'SGD': 'SGD', 'GT-DDP SGD, frozen': 'SGD', 'Lion': 'Lion'}


def row(
  form: str,
  rate: float,
  seed: int,
  loss: float | None,
  steps: int | None = None,
) -> Any:
  return {
    'form': form,
    'rate': rate,
    'seed': seed,
    'final_loss': loss,
    'diverged': loss is None,
    # The test split would choose otherwise.
    'test_accuracy': None if loss is None else 0.5 + loss / 10,
    'steps_to_target': steps,
    'seconds_to_target': steps and 0.1 * steps,
    'seconds_per_step': 0.2 if form.startswith('GT') else 0.1,
    'compile_seconds': 3.0,
  }


def small_digits() -> ml_collections.ConfigDict:
  return study.COMMAND.get_config(digits.get_config())


ROWS = [
  row(form, rate, seed, *pair)
  for form, rate, pairs in (
    ('SGD', 0.1, [(0.4, 80), (0.2, 90), (0.3, 100)]),
    ('SGD', 1.0, [(0.01, 10), (0.01, 10), (None, None)]),
    ('GT-DDP SGD, frozen', 0.1, [(0.5, 160), (0.31, 180), (0.4, 200)]),
    ('GT-DDP SGD, frozen', 1.0, [(0.1, 40), (0.2, None), (0.1, 30)]),
    ('Lion', 0.1, [(0.1, 5), (0.1, 5), (0.1, 5)]),
  )
  for seed, pair in enumerate(pairs)
]


@pytest.fixture(scope='module')
def found() -> list[Any]:
  return rankings.summaries(ROWS, BASES, 10)


def test_the_best_rate_has_the_least_loss_and_no_run_that_diverged() -> None:
  assert outcomes.best(ROWS, 'SGD') == (0.1,)
  assert outcomes.best(ROWS, 'GT-DDP SGD, frozen') == (1.0,)


def test_forms_stand_beside_their_base_at_equal_rates_and_tuned(
  found: list[Any],
) -> None:
  base, ours, lion = found
  assert base['equal']['loss_gain'] is None and base['step_ratio'] == 1
  assert ours['base_rate'] == 0.1 and ours['best_rate'] == 1.0
  assert ours['step_ratio'] == 2
  # Differences 0.1, 0.11, 0.1, of which the interval leaves out zero.
  assert ours['equal']['losses'] == [0.5, 0.31, 0.4]
  assert ours['equal']['loss_gain']['significance'] == intervals.HIGHER
  assert ours['equal']['accuracy_gain']['significance'] == intervals.HIGHER
  # -0.3, 0, -0.2
  assert ours['tuned']['loss_gain']['mean'] == pytest.approx(-0.5 / 3)
  assert ours['tuned']['loss_gain']['significance'] == intervals.OPEN
  assert base['at_edge'] and not lion['at_edge']


def test_a_run_without_a_number_is_lost_and_not_left_out(
  found: list[Any],
) -> None:
  lost = rankings.summaries(
    [
      row('SGD', 0.1, 0, 0.4, 9),
      row('SGD', 0.1, 1, 0.4, 9),
      row('SGD', 0.1, 2, 0.4, 9),
      row('GT', 0.1, 0, 0.1, 9),
      row('GT', 0.1, 1, None, None),
      row('GT', 0.1, 2, None, None),
    ],
    {'SGD': 'SGD', 'GT': 'SGD'},
    10,
  )[1]
  assert lost['equal']['loss_gain'] == {'significance': intervals.DIVERGED}
  assert lost['targets']['steps_ratio'] is None
  assert lost['targets']['median_steps'] is None
  ours = found[1]['targets']
  assert ours['reached'] == 2 and ours['median_steps'] == 40
  assert ours['steps_ratio'] is None


def test_a_run_of_two_that_diverged_is_not_compared() -> None:
  variants = ('SGD', 'GT')
  rows = [
    row(form, 0.1, seed, loss)
    for form, loss in (('SGD', 0.4), ('GT', None))
    for seed in range(2)
  ]
  (_, lost) = rankings.summaries(rows, dict.fromkeys(variants, 'SGD'), 10)
  assert lost['equal']['loss_gain'] is None


@pytest.mark.parametrize('last', ['SGD', 'GT'])
def test_deviations_of_what_did_not_learn_are_not_compared(last: str) -> None:
  chance = 0.96 * math.log(10)
  losses = {'SGD': [0.1, 0.2, 0.4, 0.3, 0.25], 'GT': [0.2, 0.1, 0.4, 0.25, 0.3]}
  rows = [
    row(form, rate, seed, loss + (form == last and rate == 1.0) * chance)
    for form, values in losses.items()
    for rate in (0.1, 1.0)
    for seed, loss in enumerate(values)
  ]
  found = rankings.summaries(rows, dict.fromkeys(losses, 'SGD'), 10)
  good, lost = found[1]['deviations']
  assert good['significance'] == intervals.OPEN
  assert lost['ratio'] is None and 'significance' not in lost
  columns = standings.deviations(found)
  assert columns[4].cells[0].startswith('1.00 [')
  assert [column.cells[1] for column in columns[4:]] == ['not trained', '-']


def test_a_method_that_is_best_at_the_rate_of_its_base_is_shown_once(
  found: list[Any],
) -> None:
  assert [s['method'] for s in standings.elsewhere(found)] == [
    'GT-DDP SGD, frozen'
  ]
  text = page.text(small_digits(), found, [])
  tuned = text.split('## Each tuned')[1].split('## To the target')[0]
  table = tuned.split('The 2 methods that are best at the rate of')[0]
  assert '| GT-DDP SGD, frozen | 1 |' in table and '| Lion |' not in table
  assert '| GT-DDP SGD, frozen | 0.403 at 0.1 | 0.133 at 1* |' in tuned
  rest = [s for s in found if s['method'] != 'GT-DDP SGD, frozen']
  text = page.text(small_digits(), rest, [])
  assert 'All 2 methods are best at the rate of the table above' in text


def test_in_short(found: list[Any]) -> None:
  against = rankings.champions(found)
  assert [s.split(' (')[0] for s in page.short(found, against)] == [
    'The best GT-DDP variant against the best of SGD and Lion alone, each '
    'tuned, and picked on the seeds that they are compared on',
    'Train loss: GT-DDP SGD, frozen',
    'Test accuracy: GT-DDP SGD, frozen',
    *(
      f'{unit} to the target: no comparison, as no method of one kind got '
      f'there on every seed.'
      for unit in ('Steps', 'Seconds')
    ),
    'The 1 variants against their bases at equal hyper-parameters, train loss: '
    '0 significantly lower, 1 significantly higher, 0 no significant '
    'difference; accuracy: 0 significantly lower, 1 significantly higher, 0 no '
    'significant difference.',
    'The standard deviation of the train loss over the seeds, at every rate: '
    'none could be compared.',
  ]


def test_the_report_says_where_ours_lose(found: list[Any]) -> None:
  against = rankings.champions(found)
  assert [part['plain'] for part in against[:2]] == [
    'Lion',
    'Lion',
  ]  # by the train loss
  assert against[0]['ours'] == 'GT-DDP SGD, frozen'
  # No form got to the target on every seed.
  assert [part['criterion'] for part in against] == [
    'train loss',
    'test accuracy',
  ]
  text = page.text(
    study.COMMAND.get_config(digits.get_config()), found, against
  )
  end = text.split('## Where GT-DDP loses')[1]
  assert '- GT-DDP SGD, frozen: train loss, equal (+0.1 ±' in end
  assert 'target reached by 2 of 3 runs, with the base alone by 3' in end
  assert '| train loss, equal | 0 | 1 | 0 |' in end
  assert '| train loss, tuned | 0 | 0 | 0 | 0 |' not in end
  same = [{**s, 'best_rate': s['base_rate']} for s in found]
  again = page.text(
    study.COMMAND.get_config(digits.get_config()), same, against
  )
  assert '| train loss, tuned | 0 | 0 | 0 | 0 |' in again
  assert 'The budgets are' not in text  # three rates each, in the config
  assert '0.0050, accuracy 96.10 %' in text


def test_figures_of_runs_that_all_diverged(tmp_path: pathlib.Path) -> None:
  variants = ('SGD', 'GT')
  lost = [row(form, 0.1, seed, None) for form in variants for seed in range(3)]
  for part in lost:
    part['smoothed_losses'] = [2.0, None]  # as JSON has what is not finite
  got = rankings.summaries(lost, dict.fromkeys(variants, 'SGD'), 10)
  figures.curves(tmp_path / 'curves.png', got, lost, 1)
  figures.deviations(tmp_path / 'variance.png', got)
  figures.targets(tmp_path / 'targets.png', got, 0.1)
  assert len(list(tmp_path.glob('*.png'))) == 3
  text = page.text(small_digits(), got, [])
  assert 'diverged 3/3' in text and '- Nothing could be compared.' in text
