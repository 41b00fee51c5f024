"""The study of the methods: its sums, and one small run of it."""

from __future__ import annotations

import json
import math
import pathlib
import re
from typing import Any

import ml_collections
import numpy as np
import pytest
from matplotlib import figure
from scipy import stats

from configs import digits
from experiments import refusals
from experiments.data import splits
from experiments.report import charts, intervals
from experiments.runs import run_folder
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


def test_ratios_are_those_of_the_logarithms() -> None:
  ours, theirs = [4.0, 9.0, 8.0], [1.0, 3.0, 2.0]
  got = intervals.ratio(ours, theirs)
  logs = np.log(np.divide(ours, theirs))
  low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
  assert got is not None
  expected = [math.exp(x) for x in (logs.mean(), low, high)]
  assert list(got.values()) == pytest.approx(expected)


def test_deviations_compare_as_pitman_and_morgan_do() -> None:
  rng = np.random.default_rng(0)
  theirs = rng.normal(size=12)
  ours = 0.5 * theirs + 0.4 * rng.normal(size=12)
  got = intervals.deviation_ratio(ours.tolist(), theirs.tolist())
  assert got is not None
  assert got['ratio'] == pytest.approx(ours.std(ddof=1) / theirs.std(ddof=1))
  # At an end of the interval, the test of equal variances has p = 0.05.
  for end in ('low', 'high'):
    scaled = ours / got[end]
    p = stats.pearsonr(scaled + theirs, scaled - theirs).pvalue
    assert p == pytest.approx(0.05)
  few, more = [1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 2.0, 9.0]
  assert intervals.deviation_ratio(few, more) is None
  assert intervals.deviation_ratio([*few, 5.0], [*more, 5.0]) is not None
  assert intervals.deviation_ratio([*few, None], [*more, 5.0]) is None


def test_one_step_on_every_seed_tells_nothing() -> None:
  base = [51, 52, 50]
  for steps, word in (
    ([50, 51, 49], intervals.OPEN),
    ([49, 50, 48], intervals.LOWER),
  ):
    found = intervals.compared_ratio(steps, base, whole=True)
    assert found is not None and found['significance'] == word
  found = intervals.compared_ratio([50, 51, 49], base)
  assert found is not None and found['significance'] == intervals.LOWER


def test_significance() -> None:
  assert intervals.significance(-2, -1) == intervals.LOWER
  assert intervals.significance(-1, 0) == intervals.OPEN
  assert intervals.significance(1.1, 2, neutral=1) == intervals.HIGHER


def test_no_significance_from_two_seeds_or_from_equal_differences() -> None:
  # Two images of 360 more on each seed, but for rounding.
  base = [count / 360 for count in (30, 59, 117)]
  ours = [count / 360 for count in (32, 61, 119)]
  assert intervals.difference(ours[:2], base[:2]) is None
  assert intervals.ratio(ours[:2], base[:2]) is None
  assert (
    intervals.of_difference(intervals.difference(ours, base)) == intervals.NONE
  )
  assert (
    intervals.of_difference(intervals.difference(base, base)) == intervals.NONE
  )
  assert intervals.of_difference(None) == intervals.NONE
  ours[0] += 1e-4
  assert (
    intervals.of_difference(intervals.difference(ours, base))
    == intervals.HIGHER
  )
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


def test_logarithmic_axes_have_plain_decimals_and_more_than_one() -> None:
  for low, high, labels in (
    (0.0038, 0.014, ['0.004', '0.006', '0.008', '0.01', '0.012', '0.014']),
    (0.02, 2.5, ['0.03', '0.1', '0.3', '1']),
    (0.95, 1.02, ['0.96', '0.98', '1', '1.02']),
    (0.0005, 20, ['0.001', '0.01', '0.1', '1', '10']),
  ):
    panel = figure.Figure().subplots()
    panel.set(yscale='log', ylim=(low, high))
    charts.plain_ticks(panel.yaxis)
    texts = [label.get_text() for label in panel.get_yticklabels()]
    assert texts == labels


def test_whiskers_end_at_the_least_and_the_largest_of_the_last_point() -> None:
  panel = figure.Figure().subplots()
  series = [[[3.0, 2.0], [1.0, 4.0], [2.0, 3.0]], [[5.0, 6.0], [5.0, 9.0]]]
  charts.draw_curves(panel, ['a', 'b'], series, 10, band=False)
  whiskers = [line for line in panel.lines if len(set(line.get_xdata())) == 1]
  assert [list(w.get_ydata()) for w in whiskers] == [[2.0, 4.0], [6.0, 9.0]]
  places = [w.get_xdata()[0] for w in whiskers]
  assert 20 < places[0] < places[1]


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


def small() -> ml_collections.ConfigDict:
  config = study.COMMAND.get_config()
  config.model.update(name='mlp', widths=(4,))
  config.dataset.update(train_samples=64, test_samples=20)
  config.update(batch_size=16, epochs=1, log_every=1, eval_every=1)
  config.methods.update(
    seeds=(0, 1), bases=('sgd', 'muon'), variants=('frozen',), target_loss=9.0
  )
  config.methods.rates.update(sgd=(0.1, 1e30), muon=(0.01,))
  return config


def test_the_study_goes_on_where_it_stopped(tmp_path: pathlib.Path) -> None:
  config = small()
  folder = run_folder.create(
    tmp_path, config, overwrite=True, files=study.COMMAND.files
  )
  study.work(config, folder)
  rows = folder.rows()
  turns = [
    ('SGD', 0.1),
    ('GT-DDP SGD, frozen', 0.1),
    ('Muon', 0.01),
    ('SGD', 1e30),
    ('GT-DDP SGD, frozen', 1e30),
  ]
  assert [(r['seed'], r['form'], r['rate']) for r in rows] == [
    (seed, *turn) for seed in (0, 1) for turn in turns
  ]
  assert [r['diverged'] for r in rows if r['rate'] > 1] == 4 * [True]
  assert not any(r['diverged'] for r in rows if r['rate'] == 0.1)
  lines = folder.file('metrics.jsonl').read_text().splitlines(keepends=True)
  folder.file('metrics.jsonl').write_text(''.join(lines[:-1]))
  study.work(config, folder)
  again = folder.rows()
  assert again[:-1] == rows[:-1]
  assert again[-1]['final_loss'] == rows[-1]['final_loss']
  result = json.loads(folder.file('result.json').read_text())
  assert [s['method'] for s in result['methods']] == list(
    dict.fromkeys(form for form, _ in turns)
  )
  report = folder.file('results.md').read_text()
  assert '64 training and 20 test samples' in report
  assert 'budgets are **not** equal' in report
  assert '## How' in report and ', jaxlib ' in report
  assert 'diverged 2/2 at 1e+30' in report
  for name in re.findall(r'!\[.*\]\((.*)\)', report):
    assert folder.file(name).stat().st_size > 10_000


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'bases': ('lion', 'muon')}, r'methods\.bases.*feedback.*sgd'),
    ({'bases': ('shampoo',)}, r'methods\.bases.*some of'),
    ({'variants': ('newton',)}, r'methods\.variants.*some of frozen'),
    ({'seeds': (0, 0)}, r'methods\.seeds.*twice'),
    ({'target_loss': 0.0}, r'methods\.target_loss'),
    ({'rates.lion': (0.1, -0.1)}, r'methods\.rates\.lion.*above 0'),
  ],
)
def test_what_it_cannot_use_is_refused(changes: Any, message: str) -> None:
  config = study.COMMAND.get_config()
  config.update_from_flattened_dict(
    {f'methods.{key}': value for key, value in changes.items()}
  )
  with pytest.raises(refusals.ConfigError, match=message):
    study.COMMAND.validate(config)


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


def test_a_part_of_the_test_split() -> None:
  whole, part = (
    splits.load('digits', 'unit', test_samples=count) for count in (None, 30)
  )
  assert part.train.size == whole.train.size and part.test.size == 30
  np.testing.assert_array_equal(part.test.images, whole.test.images[:30])


@pytest.fixture(scope='module')
def compared(tmp_path_factory: pytest.TempPathFactory) -> Any:
  """The short comparison, with a rate at which Adam diverges."""
  config = study.COMMAND.get_config()
  config.model.update(name='mlp', widths=(8,))
  config.update(batch_size=256, epochs=1, log_every=2, eval_every=2)
  config.methods.update(
    preset='compare', bases=('sgd', 'adam'), seeds=(0, 3), target_accuracy=0.2
  )
  config.learning_rates.update(sgd=0.3, adam=1e30)
  path = tmp_path_factory.mktemp('compare')
  folder = run_folder.create(path, config, True, study.FILES)
  study.work(config, folder)
  return folder


def test_a_short_comparison_has_every_pair_and_seed(compared: Any) -> None:
  rows = compared.rows()
  assert [(row['seed'], row['form'], row['rate']) for row in rows] == [
    (seed, form, rate)
    for seed in (0, 3)
    for form, rate in (
      ('SGD', 0.3),
      ('GT-DDP SGD', 0.3),
      ('Adam', 1e30),
      ('GT-DDP Adam', 1e30),
    )
  ]


def test_pairs_start_from_the_same_parameters(compared: Any) -> None:
  starts = {
    (row['seed'], row['evaluations'][0]['train_loss'])
    for row in compared.rows()
  }
  assert len(starts) == 2  # seeds


def test_a_run_that_broke_is_counted_and_not_averaged(compared: Any) -> None:
  for row in compared.rows():
    if row['form'].endswith('Adam'):
      assert 'expected a finite number' in row['stopped']
      assert 'lower config.learning_rates.adam' in row['stopped']
    else:
      assert row['stopped'] is None
  table = compared.file('results.md').read_text().split('## Accuracy')[1]
  sgd, adam = (
    next(line for line in table.splitlines() if line.startswith(f'| {name} '))
    for name in ('SGD', 'Adam')
  )
  assert '| 2/2 |' in sgd and ' ± ' in sgd
  assert '| 0/2 |' in adam and ' ± ' not in adam
  assert compared.file('accuracy.png').stat().st_size > 10_000


def test_the_preset_leaves_what_was_given() -> None:
  config = study.COMMAND.get_config()
  assert study.preset(config) == config
  config.methods.update(preset='compare', seeds=(7,))
  config.methods.rates.adam = (0.5,)
  made = study.preset(config).methods
  assert made.seeds == (7,) and made.bases == ('sgd', 'rmsprop', 'adam')
  assert made.rates.adam == (0.5,)
  assert made.rates.sgd == (config.learning_rates.sgd,)
  assert made.target_accuracy == 0.97
  variants = {form.title: form for form in study.variants(study.preset(config))}
  assert variants['GT-DDP SGD'].terminal == config.optimizer.terminal
  config.optimizer.value = 'bellman'
  config.methods.bases = ('adamw',)
  with pytest.raises(refusals.ConfigError, match=r'methods\.bases'):
    study.COMMAND.validate(config)
