"""A Flax model of one's own, trained with GT-DDP-EKFAC in an optax chain."""

import flax.linen as nn
import jax
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gtddp_jax as gt


class Net(nn.Module):
  """Any pure module whose inputs and outputs have the batch first."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps ``[B, 64]`` to logits ``[B, 10]``."""
    h = nn.relu(nn.Dense(64)(x))
    return nn.Dense(10)(nn.relu(h + nn.Dense(64)(h)))


images, labels = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(images / 16, labels, random_state=0)
params = Net().init(jax.random.key(0), x[:32])
graph = gt.trace(Net().apply, params, x[:32])
loss = gt.losses.softmax_cross_entropy
gt_ddp = gt.gt_ddp(graph, loss, gt.ekfac(0.01, 0.01), trust_region=0.3)
tx = optax.chain(gt_ddp, optax.clip_by_global_norm(1.0))
state = tx.init(params)
step = jax.jit(lambda p, s, batch: tx.update(None, s, p, batch=batch))
for i in range(600):  # about 14 epochs
  rows = slice(32 * (i % 42), 32 * (i % 42) + 32)
  updates, state = step(params, state, (x[rows], y[rows]))
  params = optax.apply_updates(params, updates)
right = graph(params, x_test).argmax(axis=-1) == y_test
print(f'loss {gt.metrics(state)["loss"]:.4f}, test accuracy {right.mean():.3f}')
