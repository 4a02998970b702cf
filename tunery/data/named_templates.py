"""Chat templates by name, for base models that have none, or another.

They write user, assistant and system messages; none of them knows tools.
"""

from tunery.errors import InvalidRequest
from tunery.facts import MOST_TEMPLATE_CHARACTERS

MOST_CHARACTERS = MOST_TEMPLATE_CHARACTERS

# Where a template has no role for it, the system message goes into the first question.
SYSTEM_IN_QUESTION = """{%- set has_system = messages[0].role == 'system' %}
{%- set system = messages[0].content if has_system else '' %}
{%- set talk = messages[1:] if has_system else messages %}"""

ALPACA = """{%- if messages[0].role == 'system' %}
{{- messages[0].content + '\n\n' }}{%- set talk = messages[1:] %}
{%- else %}{{- 'Below is an instruction that describes a task. Write a response that appropriately \
completes the request.\n\n' }}{%- set talk = messages %}{%- endif %}
{%- for message in talk %}
{%- if message.role == 'user' %}{{- '### Instruction:\n' + message.content + '\n\n' }}
{%- else %}{{- '### Response:\n' + message.content + eos_token + '\n\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\n' }}{%- endif %}"""

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

GEMMA = (
    """{{- bos_token }}"""
    + SYSTEM_IN_QUESTION
    + """
{%- for message in talk %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}
{{- (system + '\n\n' if loop.first and system else '') + message.content + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""
)

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

MISTRAL = (
    """{{- bos_token }}"""
    + SYSTEM_IN_QUESTION
    + """
{%- for message in talk %}
{%- if message.role == 'user' %}
{{- '[INST] ' + (system + '\n\n' if loop.first and system else '') + message.content + ' [/INST]' }}
{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}
{%- endfor %}"""
)

PHI3 = """{%- for message in messages %}
{{- '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""

VICUNA = """{%- if messages[0].role == 'system' %}
{{- messages[0].content + ' ' }}{%- set talk = messages[1:] %}
{%- else %}{%- set talk = messages %}{%- endif %}
{%- for message in talk %}
{%- if message.role == 'user' %}{{- 'USER: ' + message.content + ' ' }}
{%- else %}{{- 'ASSISTANT: ' + message.content + eos_token }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"""

ZEPHYR = """{%- for message in messages %}
{{- '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""

NAMED = {
    "alpaca": ALPACA,
    "chatml": CHATML,
    "gemma": GEMMA,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "phi3": PHI3,
    "vicuna": VICUNA,
    "zephyr": ZEPHYR,
}


def known_as(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def is_named(name: str) -> bool:
    return known_as(name) in NAMED


def name_of(template: str) -> str:
    """A template in few words: its name, if it is one of these."""
    names = (name for name, each in NAMED.items() if each == template)
    return next(names, f"Jinja of {len(template):,} characters")


def template_of(asked: str, param: str = "training.chat_template") -> str:
    """The Jinja text of a template that is asked for by its name, or is that text.

    Raises:
        InvalidRequest: there is none by that name.

    """
    if "{" in asked:
        return asked
    found = NAMED.get(known_as(asked))
    if found is None:
        raise InvalidRequest(
            f"{param} {asked[:64]!r} is no template's name here: take one of "
            f"{', '.join(NAMED)}, or send the template itself, in Jinja.",
            param=param,
        )
    return found
