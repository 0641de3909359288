"""A plain torch loop as a method."""
import copy

import torch
from torch.nn.functional import cross_entropy

from bdlbench.extend import from_trainer, training_option


def early_stopped(make_module, train, validation, seed, budget, *, learning_rate=0.1, momentum=0.9):
    """SGD with momentum; predicts with the weights of the lowest validation loss, where there is a validation set."""
    module, best, lowest = make_module(), None, float("inf")
    optimizer = torch.optim.SGD(module.parameters(), learning_rate, momentum)
    for step, (x, y) in enumerate(budget.batches(train), start=1):
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()
        optimizer.step()
        if validation and step % 10 == 0:
            inputs, classes = validation.tensors
            with torch.no_grad():
                loss = cross_entropy(module(inputs), classes).item()
            if loss < lowest:
                best, lowest = copy.deepcopy(module.state_dict()), loss
    module.load_state_dict(best or module.state_dict())
    return lambda x, samples: module.eval()(x).unsqueeze(0)  # one network: (1, n, C)

methods = {"early_stopped": from_trainer(early_stopped, epochs=training_option("epochs", default=20))}
