/** Types of the browser client; held to `threadwire.js` by `make check`. What they mean: docs/javascript-client.md. */

// --- the wire ------------------------------------------------------------------------------------

/** One of LangChain's standard content blocks. */
export interface Block {
  type: string;
  text?: string;
  url?: string;
  base64?: string;
  mime_type?: string;
  [more: string]: unknown;
}
export type Content = string | Block[];

export interface ToolCall {
  id: string;
  name: string;
  args: Record<string, unknown>;
}
export interface Usage {
  input_tokens: number;
  output_tokens: number;
  total_tokens: number;
  details?: Record<string, unknown>;
}
export interface Message {
  id: string;
  role: "user" | "assistant" | "tool" | "system";
  content: Content;
  /** Left out: `complete`. */
  status?: "complete" | "running" | "cancelled" | "failed" | "lost";
  tool_calls?: ToolCall[];
  tool_call_id?: string | null;
  name?: string | null;
  usage?: Partial<Usage> | null;
}
export interface Interrupt {
  id: string;
  value: unknown;
  node: string | null;
}
export interface RunInfo {
  run_id: string;
  status: "running" | "cancelling" | "interrupted";
}
export interface ErrorInfo {
  code: string;
  message: string;
}

export interface ReadyFrame {
  type: "ready";
  protocol: string;
  server: string;
  thread_id: string;
  created: boolean;
  epoch: string;
  seq: number;
  resume: "fresh" | "replayed" | "gap";
  run: RunInfo | null;
  queue: { run_id: string; message_id: string; content: Content }[];
  interrupts: Interrupt[];
  model: { name?: string; why?: string };
  heartbeat_seconds: number;
  limits: { max_message_bytes?: number; history_page?: number; max_queued?: number; [more: string]: unknown };
}
export interface AckFrame {
  type: "ack";
  id: string | null;
  run_id?: string | null;
  message_id?: string | null;
  duplicate?: boolean | null;
  /** Of `reauth`: null where the credential does not end by itself. */
  expires_in_seconds?: number | null;
}
export interface ErrorFrame {
  type: "error";
  id: string | null;
  code: string;
  message: string;
  retry: boolean;
  retry_after_seconds?: number | null;
}
export interface HistoryFrame {
  type: "history";
  id?: string | null;
  messages: Message[];
  before: string | null;
  seq: number;
}
export interface PongFrame {
  type: "pong";
  id?: string | null;
  seq: number;
}
export interface GapFrame {
  type: "gap";
  requested: number;
  earliest: number;
  epoch: string;
  run: RunInfo | null;
}
export interface BatchResultFrame {
  type: "batch_result";
  run_id: string;
  index: number;
  message?: Message | null;
  error?: ErrorInfo | null;
}
export interface GoawayFrame {
  type: "goaway";
  reason: string;
  reconnect_after_seconds: number;
}
export interface CredentialExpiringFrame {
  type: "credential_expiring";
  expires_in_seconds: number;
}
export interface EventFrame {
  type: "event";
  run_id?: string | null;
  event?: Record<string, unknown> | null;
  dropped?: number | null;
}
/** LangChain's log of a run, as JSON patches; only over HTTP. */
export interface RunLogFrame {
  type: "log";
  ops: Record<string, unknown>[];
}
export interface MessageFrame {
  type: "message";
  seq: number;
  message: Message;
}
export interface MessagesRemovedFrame {
  type: "messages_removed";
  seq: number;
  run_id: string;
  message_ids: string[];
}
export interface RunQueuedFrame {
  type: "run_queued";
  seq: number;
  run_id: string;
  message: Message;
  position: number;
}
export interface RunStartedFrame {
  type: "run_started";
  seq: number;
  run_id: string;
  trigger: "send" | "respond" | "regenerate" | "edit" | "batch";
}
export interface TokenFrame {
  type: "token";
  seq: number;
  run_id: string;
  message_id: string;
  node: string | null;
  content: string;
}
export interface ReasoningFrame {
  type: "reasoning";
  seq: number;
  run_id: string;
  message_id: string;
  node: string | null;
  content: string;
}
export interface ToolCallFrame {
  type: "tool_call";
  seq: number;
  run_id: string;
  id: string;
  name: string;
  args: Record<string, unknown>;
  node: string | null;
}
export interface ToolResultFrame {
  type: "tool_result";
  seq: number;
  run_id: string;
  id: string;
  name: string;
  result: unknown;
  status: "ok" | "error";
  duration_ms: number | null;
}
export interface UsageFrame extends Usage {
  type: "usage";
  seq: number;
  run_id: string;
  message_id: string;
  model: string | null;
}
export interface RetrievalFrame {
  type: "retrieval";
  seq: number;
  run_id: string;
  name: string;
  query: string;
  documents: { id?: string | null; page_content?: string; metadata?: Record<string, unknown> }[];
  status: "ok" | "error";
}
export interface CustomFrame {
  type: "custom";
  seq: number;
  run_id: string;
  name: string;
  data: unknown;
}
export interface InterruptFrame {
  type: "interrupt";
  seq: number;
  run_id: string;
  interrupts: Interrupt[];
}
export interface RunFinishedFrame {
  type: "run_finished";
  seq?: number | null;
  run_id: string;
  status: "completed" | "cancelled" | "interrupted" | "failed" | "lost";
  reason: string | null;
  error: ErrorInfo | null;
  usage: Usage | null;
  duration_ms: number;
  messages?: Message[] | null;
}

/** What answers a command. */
export type Answer = AckFrame | HistoryFrame | PongFrame;
/** Every frame this client knows. A later server may send other types; they are passed on as they come. */
export type Frame =
  | ReadyFrame
  | AckFrame
  | ErrorFrame
  | HistoryFrame
  | PongFrame
  | GapFrame
  | BatchResultFrame
  | GoawayFrame
  | CredentialExpiringFrame
  | EventFrame
  | RunLogFrame
  | MessageFrame
  | MessagesRemovedFrame
  | RunQueuedFrame
  | RunStartedFrame
  | TokenFrame
  | ReasoningFrame
  | ToolCallFrame
  | ToolResultFrame
  | UsageFrame
  | RetrievalFrame
  | CustomFrame
  | InterruptFrame
  | RunFinishedFrame;

// --- the client ----------------------------------------------------------------------------------

/** Which events become frames, with the meaning of LangChain's six filters. */
export interface Filters {
  include_types?: string[];
  include_names?: string[];
  include_tags?: string[];
  exclude_types?: string[];
  exclude_names?: string[];
  exclude_tags?: string[];
  raw?: boolean;
}

export interface ConnectOptions {
  /** The server (`https://host/`) or the socket (`wss://host/ws`); left out, the page's own server. */
  url?: string | URL;
  /** The conversation to go on with; left out, the server begins a new one. */
  threadId?: string;
  /** A credential, or what gives one: asked for each connection, and when the one in use is about to end. */
  token?: string | (() => string | Promise<string>);
  /** What gives a one-time ticket (`POST /tickets`) for each connection, to go in place of the token; none: `null`. */
  ticket?: () => string | null | Promise<string | null>;
  /** How many of the latest messages to send first, as a `history` frame. */
  history?: number;
  /** What becomes of this chat's runs when nobody listens any more. */
  onDisconnect?: "cancel" | "continue";
  filters?: Filters;
  /** Whether to come back after a lost connection; true where it is left out. */
  reconnect?: boolean;
  /** How many failures in a row end the chat; left out, none. */
  maxReconnects?: number;
  /** Seconds for a connection to be made and to say `ready`; 10 where it is left out. */
  openSeconds?: number;
  /** The class of sockets, where there is no global one (Node 20). */
  WebSocket?: { new (url: string | URL, protocols?: string[]): WebSocket };
}

export interface SendOptions {
  messageId?: string;
  runId?: string;
  multitaskStrategy?: "enqueue" | "reject" | "interrupt" | "rollback";
  stream?: "events" | "messages";
  context?: Record<string, unknown>;
  checkpointId?: string;
}

/** How the line is. Times are those of `Date.now()`. */
export interface Line {
  state: "connecting" | "live" | "draining" | "reconnecting" | "offline" | "closed";
  /** The next attempt; null while one is being made. */
  retryAt?: number | null;
  code?: number;
  reason?: string;
}

/** What crosses the socket, as it is. */
export interface Wire {
  direction: "in" | "out";
  text: string;
  frame: unknown;
}

/** A run that this client started: an async iterable of its frames, to its `run_finished`. */
export interface Turn {
  readonly runId: string;
  /** The user's message; an edit's is known with its `ack`. */
  readonly messageId: string | null;
  /** The server has it: no crash loses it from now on. */
  readonly acknowledged: boolean;
  readonly over: boolean;
  /** What the graph waits for, where the turn ended as `interrupted`; `chat.respond` answers it. */
  readonly interrupts: readonly Interrupt[];
  readonly ack: Promise<AckFrame>;
  readonly finished: Promise<RunFinishedFrame>;
  text(): Promise<string>;
  cancel(): Promise<AckFrame>;
  [Symbol.asyncIterator](): AsyncIterableIterator<Frame>;
}

type FramesByType = { [F in Frame as F["type"]]: CustomEvent<F> };
/** The events of a chat: each frame by its type, all frames as `frame`, and what is below them. */
export interface ChatEvents extends FramesByType {
  frame: CustomEvent<Frame>;
  line: CustomEvent<Line>;
  wire: CustomEvent<Wire>;
}

/** One thread on a server. */
export interface Chat extends EventTarget {
  readonly threadId: string | null;
  readonly line: Line;
  readonly ready: ReadyFrame | null;
  /** The run that is active, as far as the frames that came tell; null: none. */
  readonly running: string | null;
  /** The first `ready`; rejects where the chat ends before. */
  readonly opened: Promise<ReadyFrame>;
  send(content: Content, options?: SendOptions): Turn;
  respond(responses: Record<string, unknown>): Turn;
  edit(messageId: string, content: Content): Turn;
  regenerate(messageId?: string): Turn;
  cancel(runId?: string): Promise<AckFrame>;
  history(page?: { before?: string; limit?: number }): Promise<HistoryFrame>;
  subscribe(filters: Filters): Promise<AckFrame>;
  ping(): Promise<PongFrame>;
  frames(): AsyncIterableIterator<Frame>;
  close(): void;
  [Symbol.asyncIterator](): AsyncIterableIterator<Frame>;
  addEventListener<T extends keyof ChatEvents>(
    type: T,
    listener: (event: ChatEvents[T]) => void,
    options?: AddEventListenerOptions | boolean,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: AddEventListenerOptions | boolean,
  ): void;
}

/** Begin a conversation. Returns at once: what is said before the connection is there waits for it. */
export function connect(options?: ConnectOptions): Chat;
/** Read one message of the socket; throws `BadFrame`. */
export function decode(data: unknown): Frame;
/** The text of a message's content. */
export function plain(content: Content): string;

/** A frame that is not what the protocol says. */
export class BadFrame extends Error {
  /** Where, as a path; null for the whole. */
  field: string | null;
}
/** The server refused a command. */
export class CommandFailed extends Error {
  code: string;
  retry: boolean;
  retryAfterSeconds: number | null;
}
/** The chat is over, or a command that may not be repeated went down with its connection. */
export class Disconnected extends Error {
  code: number;
  reason: string;
}
/** The turn ended without its answer. */
export class TurnFailed extends Error {
  finished: RunFinishedFrame;
  text: string;
}
/** The turn is over, and its end was told while nobody of us listened. */
export class TurnLost extends Error {
  runId: string;
  history: HistoryFrame | null;
}
