// The stock Agents SDK: a recording is its microphone, spoken again while the answer is played.
import { readFileSync } from "node:fs";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from "@openai/agents-realtime";
import { z } from "zod";

const [url, recording] = process.argv.slice(2);
const PACKET = 1920; // 40 ms
const clock = tool({
  name: "clock",
  description: "The time",
  parameters: z.object({ zone: z.string() }),
  execute: async ({ zone }) => `12:00 ${zone}`,
});
const transport = new OpenAIRealtimeWebSocket({ url, useInsecureApiKey: true });
const agent = new RealtimeAgent({ name: "host", instructions: "Be kind.", tools: [clock] });
const session = new RealtimeSession(agent, { transport, model: "voicebot" });

const seen = {};
const found = { audio: 0, interrupted: 0, errors: [] };
transport.on("*", (event) => { seen[event.type] = (seen[event.type] ?? 0) + 1; });
session.on("error", (error) => found.errors.push(error));
session.on("audio", ({ data }) => { found.audio += data.byteLength; });
session.on("audio_interrupted", () => { found.interrupted += 1; });

async function until(condition, seconds = 90) {
  const end = Date.now() + 1000 * seconds;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${condition}; seen ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

await session.connect({ apiKey: "none", url });
const sound = readFileSync(recording);
let at = 0;
setInterval(() => {
  const packet = Buffer.alloc(PACKET);
  sound.subarray(at, at + PACKET).copy(packet);
  at += PACKET;
  session.sendAudio(packet.buffer.slice(packet.byteOffset, packet.byteOffset + PACKET));
}, 40);
await until(() => seen["response.done"] === 1);
at = 0;
await until(() => found.interrupted === 1);
await until(() => seen["response.done"] === 2);
await until(() => session.history.length === 4);
found.history = session.history.map(({ role, content }) => [role, content.map((part) => part.transcript ?? part.text).join(" ")]);
console.log(JSON.stringify(found));
process.exit(0);
