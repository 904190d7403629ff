"""Ask a running server (`omni2 serve`) through OpenAI's own client, over the Realtime protocol: words now, sound kept.

pip install 'openai[realtime]'
python examples/openai_client.py [QUESTION.wav] [http://127.0.0.1:60808]
"""

import base64
import sys
import wave
from pathlib import Path

from openai import OpenAI

from omni2.audio import load_audio
from omni2.codec.stream import to_pcm16

question = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "audio" / "capital.wav"
server = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:60808"
client = OpenAI(api_key="none", base_url=f"{server}/v1")
samples = to_pcm16(load_audio(question))  # 16 kHz; the server is told so below

with (
    client.realtime.connect(model="omni2", extra_query={"input_rate": 16_000}) as connection,
    wave.open("answer.wav", "wb") as answer,
):
    answer.setparams((1, 2, 24_000, 0, "NONE", ""))
    connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    connection.input_audio_buffer.append(audio=base64.b64encode(samples).decode())
    connection.input_audio_buffer.commit()
    connection.response.create()
    for event in connection:
        if event.type == "response.output_audio_transcript.delta":
            print(event.delta, end="", flush=True)
        elif event.type == "response.output_audio.delta":
            answer.writeframes(base64.b64decode(event.delta))
        elif event.type in ("response.done", "error"):
            print("\nanswer.wav" if event.type == "response.done" else f"\n{event.error.message}")
            break
