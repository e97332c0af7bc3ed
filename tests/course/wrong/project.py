# Plausible wrong answers to the final project. The format: book/authoring.md.

# %% chosen on test images task="choice-answer" loses=["choice-check", "choice-hidden"] says="chosen on test images"
def choose_setting(validation, test):
    return test.argmax()


# %% a failed run wins task="choice-answer" loses=["choice-check", "choice-hidden"] says="a failed run (nan) was chosen"
def choose_setting(validation, test):
    return validation.argmax()


# %% the last of level settings task="choice-answer" loses=["choice-check", "choice-hidden"] says="choose the first"
def choose_setting(validation, test):
    if validation.isnan().all():
        raise ValueError("all failed")
    best = validation[~validation.isnan()].max()
    return (validation == best).nonzero()[-1, 0]


# %% a failed run counts as no gain task="choice-answer" loses=["choice-hidden"] says="other numbers than expected"
def choose_setting(validation, test):
    if validation.isnan().all():
        raise ValueError("all failed")
    return validation.nan_to_num(0.0).argmax()


# %% before minus after task="interval-answer" loses=["interval-check", "interval-hidden"] says="before and after are swapped"
def gain_interval(before, after, draws):
    d = 100 * (before.double() - after.double())
    ends = torch.quantile(d[draws].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return torch.cat([d.mean()[None], ends])


# %% not in points task="interval-answer" loses=["interval-check", "interval-hidden"] says="percent points"
def gain_interval(before, after, draws):
    d = after.double() - before.double()
    ends = torch.quantile(d[draws].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return torch.cat([d.mean()[None], ends])


# %% an interval of ninety percent task="interval-answer" loses=["interval-check", "interval-hidden"] says="5% on either side"
def gain_interval(before, after, draws):
    d = 100 * (after.double() - before.double())
    ends = torch.quantile(d[draws].mean(1), torch.tensor([0.05, 0.95], dtype=torch.float64))
    return torch.cat([d.mean()[None], ends])


# %% divides by the spread task="interval-answer" loses=["interval-edge"] says="nan results from 0/0"
def gain_interval(before, after, draws):
    d = 100 * (after.double() - before.double())
    spread = d.std()
    means = (d / spread)[draws].mean(1)
    ends = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)) * spread
    return torch.cat([d.mean()[None], ends])


# %% the sign of the mean task="verdict-answer" loses=["verdict-check", "verdict-hidden"] says="the sign of the mean is not enough"
def verdicts(intervals):
    return intervals[:, 0].sign().long()


# %% exchanged task="verdict-answer" loses=["verdict-check", "verdict-hidden"] says="swapped"
def verdicts(intervals):
    return (intervals[:, 2] < 0).long() - (intervals[:, 1] > 0).long()


# %% an end at zero counts task="verdict-answer" loses=["verdict-hidden"] says="other numbers than expected"
def verdicts(intervals):
    return (intervals[:, 1] >= 0).long() - (intervals[:, 2] <= 0).long()
