// The loader route: the same programs that TFTP hands out, for firmware that boots by HTTP.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { servedName } from '../boot/loader-set.ts';
import { loaderPath } from '../boot/urls.ts';
import type { Booter } from '../booter.ts';
import { findLoader, type Loaders } from '../loaders.ts';
import { remoteIp4 } from './peer.ts';
import { refuse } from './refusal.ts';

/** `GET|HEAD /loaders/:file` and `/loaders/:set/:file`; a fastify plugin. UEFI HTTP Boot asks by HEAD for the size first (TRAPS 1.11). */
export async function loaderRoutes(app: FastifyInstance, { loaders, booter }: { readonly loaders: Loaders; readonly booter: Pick<Booter, 'ask' | 'seen'> }): Promise<void> {
  const answer = async (request: FastifyRequest<{ Params: { set?: string; file: string } }>, reply: FastifyReply): Promise<FastifyReply> => {
    const ip = remoteIp4(request);
    const { decision, boot, node } = await booter.ask({ via: 'http', ...(ip ? { ip } : {}) });
    if (decision.kind === 'silent') return refuse(reply, 404, 'NODE_UNKNOWN', decision.why);
    const { set, file } = request.params;
    const found = findLoader(loaders, servedName(set, file), node);
    if (!found) return refuse(reply, 404, 'NOT_FOUND', 'no such loader');
    const { name, bytes, digest, version } = found;
    if (boot && request.method === 'GET') reply.raw.once('finish', () => void booter.seen(boot.id, 'loader', { message: name, bytes: bytes.length, digest, version }));
    return reply.header('etag', `"${digest}"`).type('application/efi').send(bytes);
  };
  app.get(loaderPath(':file'), answer);
  app.get(loaderPath(':set/:file'), answer);
  // As shim writes it, which joins its own directory and `/grubx64.efi` (seen: 16.1).
  app.get(loaderPath('/:file'), answer);
  app.get(loaderPath(':set//:file'), answer);
}
