// The loader route: the same programs that TFTP hands out, for firmware that boots by HTTP.
import type { FastifyInstance } from 'fastify';
import { loaderPath } from '../boot/urls.ts';
import type { Booter } from '../booter.ts';
import type { Loaders } from '../loaders.ts';
import { remoteIp4 } from './peer.ts';
import { refuse } from './refusal.ts';

/** `GET|HEAD /loaders/:file`; a fastify plugin. UEFI HTTP Boot asks by HEAD for the size first (TRAPS 1.11). */
export async function loaderRoutes(app: FastifyInstance, { loaders, booter }: { readonly loaders: Loaders; readonly booter: Pick<Booter, 'ask' | 'seen'> }): Promise<void> {
  app.get<{ Params: { file: string } }>(loaderPath(':file'), async (request, reply) => {
    const ip = remoteIp4(request);
    const { decision, boot } = await booter.ask({ via: 'http', ...(ip ? { ip } : {}) });
    if (decision.kind === 'silent') return refuse(reply, 404, 'NODE_UNKNOWN', decision.why);
    const { file } = request.params;
    const bytes = loaders.get(file);
    if (!bytes) return refuse(reply, 404, 'NOT_FOUND', 'no such loader');
    if (boot && request.method === 'GET') reply.raw.once('finish', () => void booter.seen(boot.id, 'loader', { message: file, bytes: bytes.length }));
    return reply.header('etag', `"${loaders.digests[file]}"`).type('application/efi').send(bytes);
  });
}
