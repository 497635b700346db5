import asyncio

from slm.serving.sequence import Sequence, Token
from slm.serving.token_stream import TokenStream
from slm.settings import SamplingConfig


def test_a_reader_that_is_behind_gets_each_sequences_tokens_joined_and_loses_none():
    async def behind():
        stream = TokenStream(every_token=True)
        first, second = (Sequence([0], SamplingConfig(), stream, 9, index=i) for i in range(2))
        stream.on_prompt(first, [Token(7)])
        stream.on_token(first, Token(1))
        stream.on_token(second, Token(2))
        stream.on_token(first, Token(3))
        stream.on_error(second, ValueError("no"))
        await asyncio.sleep(0)
        return await stream.next()

    prompt, one, two, error = asyncio.run(behind())
    assert [token.id for token in prompt.prompt] == [7]
    assert prompt.tokens == []
    assert (one.index, [token.id for token in one.tokens]) == (0, [1, 3])
    assert (two.index, [token.id for token in two.tokens]) == (1, [2])
    assert str(error.error) == "no"


def test_where_nobody_waits_for_single_tokens_they_come_at_the_end():
    async def at_the_end():
        stream = TokenStream(every_token=False)
        sequence = Sequence([0], SamplingConfig(), stream, 9)
        stream.on_token(sequence, Token(1))
        stream.on_token(sequence, Token(2, finish_reason="length"))
        return await stream.next()

    [update] = asyncio.run(at_the_end())
    assert [token.id for token in update.tokens] == [1, 2]
