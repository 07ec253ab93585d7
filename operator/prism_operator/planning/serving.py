"""What a stage asks of its rollout servers."""

from prism_api.resources import Evaluation
from prism_api.run import AnyStage
from prism_api.stages import SftStage


def context_tokens(stage: AnyStage, evaluation: Evaluation | None) -> int:
    """Tokens of the longest prompt and response together, those of the evaluation included."""
    assert not isinstance(stage, SftStage), "only stages that sample have servers"
    response = stage.max_response_tokens
    if evaluation is not None:
        response = max(response, evaluation.max_response_tokens)
    return stage.max_prompt_tokens + response
