"""Class-conditional few-step pipelines of the package ``diffusers`` as generators (extra ``[diffusers]``)."""
