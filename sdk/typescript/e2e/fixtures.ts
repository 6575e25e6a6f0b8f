/** What every end-to-end test has: a server, a web site, and pages that listen. */
import { type BrowserContext, test as base, type Page } from '@playwright/test';
import { PUBLISH_KEY, PushFlo } from './pushflo';
import { Site } from './site';

interface Fixtures {
  /** TOML for the server. */
  config: string;
  pushflo: PushFlo;
  site: Site;
  /** Opens a page that listens to a channel, and waits until it does. */
  listen: (channel: string, more?: ListenOptions) => Promise<Tab>;
}

/** Options of the client in the page, and how it gets its tokens. */
export interface ListenOptions {
  tokenTtl?: number;
  client?: Record<string, unknown>;
  replay?: { last: number };
  context?: BrowserContext;
}

export const test = base.extend<Fixtures>({
  config: ['', { option: true }],
  pushflo: async ({ config }, use) => {
    const server = await PushFlo.start(config);
    await use(server);
    await server.stop();
  },
  site: async ({}, use) => {
    const site = await Site.start();
    await use(site);
    site.stop();
  },
  listen: async ({ pushflo, site, context: shared }, use) => {
    await use(async (channel, { context = shared, ...options } = {}) => {
      const page = await context.newPage();
      const query = new URLSearchParams({
        options: JSON.stringify({ channel, key: PUBLISH_KEY, url: pushflo.url, ...options }),
      });
      await page.goto(`${site.url}/listen.html?${query}`);
      const tab = new Tab(page);
      await expect(tab.state).toHaveText('connected');
      await expect(tab.events('subscribed')).toHaveCount(1);
      return tab;
    });
  },
});

/** A page that listens, as a person sees it. */
export class Tab {
  constructor(readonly page: Page) {}

  get state() {
    return this.page.locator('#state');
  }

  get messages() {
    return this.page.locator('#messages li');
  }

  /** What was told besides messages. */
  events(name: string) {
    return this.page.locator('#events li', { hasText: new RegExp(`^${name}\\b`) });
  }

  /** The numbers that are shown. */
  async numbers(): Promise<number[]> {
    return (await this.messages.allTextContents()).map(Number);
  }

  /** Waits until the last number is shown, and returns all of them. */
  async until(last: number): Promise<number[]> {
    await expect(this.messages.last()).toHaveText(String(last), { timeout: 40_000 });
    return this.numbers();
  }
}

/** 1 to `last`. */
export function upTo(last: number, first = 1): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

export const expect = base.expect;
