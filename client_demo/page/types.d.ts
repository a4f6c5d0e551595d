/** What a conversation on the page is made of. */
import type { Content, Interrupt, Usage } from "../threadwire.d.ts";

export type AnswerStatus = "complete" | "running" | "cancelled" | "failed" | "lost";
/** `waiting`: the run has stopped for a person's answer. */
export type ToolStatus = "running" | "waiting" | "ok" | "error";

interface Base {
  id: string;
  runId: string | null;
}
export interface UserEntry extends Base {
  kind: "user";
  content: Content;
  /** `waiting`: the server has not got it; `queued`: it waits there for its turn; `refused`: `note` says why. */
  status: "sent" | "waiting" | "queued" | "refused";
  note: string;
}
export interface AssistantEntry extends Base {
  kind: "assistant";
  text: string;
  reasoning: string;
  status: AnswerStatus;
  usage: Partial<Usage> | null;
  /** Why it was cut off. */
  note: string;
}
export interface ToolEntry extends Base {
  kind: "tool";
  name: string;
  args: unknown;
  result: unknown;
  status: ToolStatus;
  durationMs: number | null;
}
export interface RetrievalEntry extends Base {
  kind: "retrieval";
  name: string;
  query: string;
  documents: { id?: string | null; page_content?: string; metadata?: Record<string, unknown> }[];
  status: "ok" | "error";
}
export interface CustomEntry extends Base {
  kind: "custom";
  name: string;
  data: unknown;
}
export interface InterruptEntry extends Base {
  kind: "interrupt";
  interrupts: Interrupt[];
}
/** How a run ended that left no answer to say it at. */
export interface EndEntry extends Base {
  kind: "end";
  status: AnswerStatus;
  text: string;
}
export type Entry = UserEntry | AssistantEntry | ToolEntry | RetrievalEntry | CustomEntry | InterruptEntry | EndEntry;

/** Who shows a conversation. */
export interface Watcher {
  added(entry: Entry, before: Entry | null): void;
  prepended(entries: Entry[]): void;
  changed(entry: Entry): void;
  removed(entry: Entry): void;
  /** All entries are others now. */
  reset(): void;
  /** Something beside the entries has changed. */
  state(): void;
}
