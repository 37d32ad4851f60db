"""Release (a) as one site's part of a sum over sites."""

from __future__ import annotations

import numpy as np

from mpssl_fed.models import Params
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.shared.noise import Integers


def shared_gradient(private: DPPrivateData, theta: Params, beside: Params) -> Integers:
    """Return the clipped gradient sum at ``theta`` with the public gradient ``beside`` in it: integers [d], by sorted names.

    ``beside`` counts q x public_size times, as the mean of the sum's units does. Both are rounded to the plan's grid together, and
    the site's part of the noise comes last. The plan prices the sum over sites alone, so this vector has to be masked. RuntimeError
    where it shares no noise.
    """
    plan, mechanism = private.settings.plan, private.settings.mechanism("gradient")
    sharing = plan.sharing(mechanism)
    if sharing is None:
        raise RuntimeError("the plan of this run shares no noise")
    drawn = private.drawn("gradient", lambda batch: private.gradient_sum(theta, batch))
    sums = dict(zip(theta, drawn, strict=True))
    parts = [sums[key].double() + mechanism.denominator * beside[key].double() for key in sorted(theta)]
    total = np.concatenate([part.detach().cpu().numpy().ravel() for part in parts])
    return sharing.part(total, private.noise)
