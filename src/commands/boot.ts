// `rackseed boot show`: one boot with its stages and their times.
import { quirkWords } from '../boot/quirks.ts';
import type { Boot, Stage } from '../boot/timeline.ts';
import { createClient, type ClientOptions } from './client.ts';
import { render, type Format } from './output.ts';

/** `which`: a boot's id, or a node (name or MAC), whose newest boot is then shown. */
export async function bootShow(which: string, options: ClientOptions & { readonly output: Format }): Promise<string> {
  const client = createClient(options);
  const boot = /^[0-9A-HJKMNP-TV-Z]{26}$/.test(which) ? await client.get<Boot>(`/api/boots/${which}`) : await newestOf(which, client);
  if (!boot) return `${which} has not booted yet\n`;
  const seconds = (at: number): string => ((at - boot.startedAt) / 1000).toFixed(2);
  const table = render<Stage>(options.output, boot, boot.stages, [
    { title: 'STAGE', of: (stage) => stage.name },
    { title: 'STATE', of: (stage) => stage.state },
    { title: 'AT (S)', of: (stage) => seconds(stage.firstAt) },
    { title: 'COUNT', of: (stage) => stage.count },
    { title: 'RESULT', of: (stage) => stage.detail.result },
    { title: 'MESSAGE', of: (stage) => stage.detail.message },
    { title: 'BYTES', of: (stage) => stage.detail.bytes, wide: true },
    { title: 'VERSION', of: (stage) => stage.detail.version, wide: true },
    { title: 'SHA256', of: (stage) => stage.detail.digest?.slice('sha256:'.length, 'sha256:'.length + 12), wide: true },
    { title: 'TOOK (MS)', of: (stage) => stage.detail.durationMs, wide: true },
  ]);
  if (options.output === 'json' || options.output === 'yaml') return table;
  const head = `boot ${boot.id} of ${boot.node} (${boot.mac}), profile ${boot.profile}: ${boot.state}${boot.why ? `: ${boot.why}` : ''}`;
  const lines = [head, ...(boot.quirks ?? []).map((quirk) => `quirks: ${quirkWords(quirk)}`)];
  return `${lines.map((line) => line.replace(/[\x00-\x1f\x7f-\x9f]/g, '?')).join('\n')}\n\n${table}`;
}

async function newestOf(node: string, client: ReturnType<typeof createClient>): Promise<Boot | undefined> {
  const { boots } = await client.get<{ boots: Boot[] }>(`/api/boots?limit=1&node=${encodeURIComponent(node)}`);
  return boots[0];
}
