/** What the HTTP calls take and give. Times ending in `At` are ISO 8601. */
import type { Member } from '../core/wire';
import type { Message } from '../message';
import type { Pagination } from './request';

/** What one publish became. */
export interface PublishResult {
  id: string;
  channelSlug: string;
  eventType: string;
  /** Empty where the publisher said none. */
  clientId: string;
  /** Subscribers to which it was queued for sending. */
  delivered: number;
  createdAt: string;
  offset: number;
  epoch: string;
}

/** One message to publish. */
export interface PublishRequest {
  channel: string;
  /** Default `message`. */
  event?: string | undefined;
  /** Any JSON. */
  data: unknown;
  /** Who it comes from. */
  clientId?: string | undefined;
}

/** A message of a batch; with `channels` it goes to each of them. */
export type BatchItem = PublishRequest | (Omit<PublishRequest, 'channel'> & { channels: string[] });

/** A message of a batch that was not published. */
export interface BatchFailure {
  success: false;
  error: string;
  code: string;
  details?: Record<string, string[]>;
}

export interface BatchResult {
  published: number;
  failed: number;
  /** In the order of the batch. */
  results: ((PublishResult & { success?: true }) | BatchFailure)[];
}

/** A message of the past. */
export interface HistoryMessage<T = any> extends Message<T> {
  createdAt: string;
}

export interface MessageHistoryOptions {
  /** From 1. */
  page?: number | undefined;
  /** Up to 100. Default 25. */
  pageSize?: number | undefined;
  eventType?: string | undefined;
  /** Unix milliseconds, or a date. */
  after?: number | Date | undefined;
  before?: number | Date | undefined;
  /** Ends the call. */
  signal?: AbortSignal | undefined;
}

/** Newest first. */
export interface MessageHistory<T = any> {
  messages: HistoryMessage<T>[];
  pagination: Pagination;
}

export interface Channel {
  id: string;
  name: string;
  slug: string;
  description: string | null;
  /** Whether subscribing needs a token that names the channel. */
  isPrivate: boolean;
  /** Whether subscribers can see each other. */
  presence?: boolean;
  metadata: Record<string, unknown> | null;
  messageCount: number;
  createdAt: string;
  updatedAt: string;
}

/** What can be changed of a channel. */
export interface ChannelUpdateInput {
  name?: string | undefined;
  description?: string | null | undefined;
  isPrivate?: boolean | undefined;
  presence?: boolean | undefined;
  metadata?: Record<string, unknown> | null | undefined;
}

export interface ChannelInput extends ChannelUpdateInput {
  name: string;
  slug: string;
}

export interface ListChannelsOptions {
  /** From 1. */
  page?: number | undefined;
  pageSize?: number | undefined;
  /** Ends the call. */
  signal?: AbortSignal | undefined;
}

export interface ChannelPage {
  channels: Channel[];
  pagination: Pagination;
}

/** A token as the server makes it. */
export interface ConnectionToken {
  token: string;
  expiresAt: string;
  /** The WebSocket address it is for. */
  endpoint: string;
  clientId: string;
}

export interface PresencePage {
  /** Connections that are subscribed; right for every channel. */
  subscribers: number;
  /** Members; 0 for a channel without presence. */
  count: number;
  members: Member[];
  pagination?: Pagination;
}
