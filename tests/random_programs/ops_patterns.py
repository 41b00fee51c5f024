"""Operations in a row, as they come in real models, each on what is latest.

Between the first and the last of a row stands a layer, so that what the first
has made (an integer, a mask, a merged axis, a spectrum) is alive at a cut.
"""

from __future__ import annotations

from drafts import Draft, UnfitError
from ops import TABLE, operation

PATTERNS = {
  'integer_across_a_layer',
  'mask_across_a_layer',
  'layer_on_a_merged_axis',
  'layer_in_another_layout',
  'layer_on_a_spectrum',
  'routed_by_arange',
  'mixture_of_experts',
  'heads',
}

READERS = (
  'taken_along',
  'embedding',
  'one_hot',
  'routed',
  'dynamic_row',
  'picked_by_arange',
  'permuted_by',
  'stepped',
)


def in_a_row(d: Draft, *kinds: str) -> None:
  """Does one after the other; what does not fit is left out."""
  count = len(d.atoms)
  with d.on_the_latest():
    for kind in kinds:
      try:
        TABLE[kind](d)
      except UnfitError:
        continue
  if len(d.atoms) == count:
    raise UnfitError


@operation(6)
def integer_across_a_layer(d: Draft) -> None:
  first = d.one_of(['arg', 'top_k', 'arg'])
  layer = d.one_of(['dense', 'scale_and_shift', 'recurrent'])
  last = d.one_of(READERS)
  if last == 'one_hot':
    in_a_row(d, first, layer, 'one_hot', 'dense')
  elif last == 'stepped':
    in_a_row(d, first, 'stepped', layer, 'embedding')
  elif last == 'permuted_by':
    in_a_row(d, 'ranks', layer, 'permuted_by')
  else:
    in_a_row(d, first, layer, last)


@operation(3)
def mask_across_a_layer(d: Draft) -> None:
  in_a_row(d, 'mask', d.one_of(['scale_and_shift', 'one_number']), 'masked')


@operation(5)
def layer_on_a_merged_axis(d: Draft) -> None:
  first = d.one_of(['merge', 'repeated', 'two_views'])
  layer = d.one_of(['dense', 'convolution', 'attention', 'scale_and_shift'])
  last = 'apart_again' if first == 'two_views' else 'split_merged'
  if first == 'two_views':
    in_a_row(d, 'unary', first, layer, last)
  else:
    in_a_row(d, first, layer, last)


@operation(4)
def layer_in_another_layout(d: Draft) -> None:
  first = d.one_of(['move_axis', 'transpose'])
  layer = d.one_of(['dense', 'several_axes', 'recurrent', 'convolution'])
  in_a_row(d, first, layer, 'along', d.one_of(['move_axis', 'transpose']))


@operation(3)
def layer_on_a_spectrum(d: Draft) -> None:
  in_a_row(
    d,
    d.one_of(['fourier', 'to_complex']),
    d.one_of(['complex_dense', 'of_complex']),
    'complex_dense',
    d.one_of(['fourier_back', 'of_complex']),
  )


@operation(3)
def routed_by_arange(d: Draft) -> None:
  """The last valid position of each sample, as language models take it."""
  in_a_row(d, 'lengths', 'dense', 'picked_by_arange', 'dense')


@operation(2)
def mixture_of_experts(d: Draft) -> None:
  """Experts before the batch, each with its own second layer."""
  in_a_row(d, 'experts', 'each_its_own', 'gated_sum')


@operation(2)
def heads(d: Draft) -> None:
  in_a_row(d, 'split_axis', d.one_of(['attention', 'along']), 'merge')
