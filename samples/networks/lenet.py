"""LeNet-300-100 and LeNet-5 for MNIST, as DeepHoyer and most pruning papers have them."""

from collections import OrderedDict

from torch import nn


def lenet_300_100() -> nn.Sequential:
    """Three linear layers for images (N, 1, 28, 28); 266,200 weights."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, 10),
        )
    )


def lenet_5() -> nn.Sequential:
    """Two convolutions and two linear layers (20-50-500) for (N, 1, 28, 28); 430,500 weights."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )
