// A worker thread of the machines' HTTP server: the routes and listeners, with the Booter in the main thread. Started by front.ts only.
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import type { Booter } from '../booter.ts';
import { createShelf } from '../loaders.ts';
import { createLog } from '../log.ts';
import { BACKLOG, duplicate } from '../net/listening-socket.ts';
import type { Repos } from '../postboot/repos.ts';
import { createHostKeys } from '../store/host-keys.ts';
import { createVerdicts } from '../store/verdicts.ts';
import { createVerifiedBlobs } from '../store/verified.ts';
import { createChildren } from '../threads/children.ts';
import { NICE_OF_HTTP, stepBack } from '../threads/nice.ts';
import { createNoted } from '../threads/noted.ts';
import { remote, toCrossing } from '../threads/rpc.ts';
import { blobRoutes } from './blobs.ts';
import { createCounters } from './counters.ts';
import type { PartsBook } from './coverage.ts';
import { gitRoutes } from './git.ts';
import { createListeners, type TlsServer } from './listener.ts';
import { loaderRoutes } from './loaders.ts';
import { machineRoutes } from './machines.ts';
import { createPumps } from './pumps.ts';
import { createHttp, portUnavailable } from './server.ts';
import { FRONT_CALLS, type FrontCalls, type FromThread, type ThreadData, type ToThread } from './thread-messages.ts';

async function run(data: ThreadData, main: MessagePort): Promise<void> {
  stepBack(NICE_OF_HTTP);
  const say = (message: FromThread): void => main.postMessage(message);
  const log = createLog(data.logLevel, { write: (line: string) => say({ kind: 'log', line }) });
  const afar = remote<FrontCalls, (typeof FRONT_CALLS)[number]>(data.booter, FRONT_CALLS, { always: ['release', 'seen', 'sent'] });
  // Nobody waits for these, so they must not reject: a boot must not die of its record.
  const unrecorded = (boot: string, stage: string) => (error: unknown) => log.error({ err: error, boot, stage }, 'stage not recorded');
  const booter: Booter = { ...afar, seen: (...args) => afar.seen(...args).catch(unrecorded(args[0], args[1])), leased: async () => undefined };
  const sent: PartsBook['sent'] = (bootId, part) => afar.sent(bootId, part).catch(unrecorded(bootId, part.stage));
  const loaders = createShelf(data.loaders);
  const { dirs, environment } = data.repos;
  const repos: Pick<Repos, 'dir' | 'environment'> = { dir: (name) => (Object.hasOwn(dirs, name) ? dirs[name] : undefined), environment: () => environment };
  const verdicts = createVerdicts(data.verdicts);
  verdicts.onNote((verdict) => say({ kind: 'verdict', verdict }));
  const blobs = createVerifiedBlobs({ stateDir: data.stateDir, verdicts, onRotten: (digest, why, movedTo) => say({ kind: 'rotten', digest, why, ...(movedTo === undefined ? {} : { movedTo }) }) });

  const counters = createCounters(data.counters);
  const pumps = createPumps({ log, onSent: (bytes) => counters.add('bytes', bytes), threads: data.pumps, noteFile: createNoted(0, data.files).note });

  const app = await createHttp('machines', log, async (routes) => {
    await routes.register(machineRoutes, { booter, log, hostKeys: createHostKeys(data.stateDir), ...(data.fallbacks ? { fallbacks: data.fallbacks } : {}), ...(data.publicBase === undefined ? {} : { publicBase: data.publicBase }) });
    await routes.register(blobRoutes, { blobs, booter, sent, log, pumps, cacheBytes: data.cacheBytes });
    await routes.register(loaderRoutes, { loaders, booter });
    await routes.register(gitRoutes, { repos, booter, log, limits: data.gitLimits, noteChild: createChildren(data.children).note });
  });
  await app.ready();

  const listeners = createListeners(app.routing, counters, data.limits);
  const withTls: TlsServer[] = [];
  for (const { host, port, tls, fd } of data.listeners) {
    const server = tls ? listeners.https(data.tls!) : listeners.http();
    if (tls) withTls.push(server as TlsServer);
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => reject(portUnavailable(host, port, error)));
      if (fd === undefined) server.listen({ host, port, backlog: BACKLOG }, resolve);
      // Beside a file number Node reads no `backlog` from the options, and sets 511 (20.20).
      else server.listen({ fd: duplicate(fd) }, BACKLOG, resolve);
    });
    server.removeAllListeners('error').on('error', (error) => log.error({ err: error, host, port }, 'HTTP listener failed'));
  }

  main.on('message', (message: ToThread) => {
    if (message.kind === 'verdict') return verdicts.learn(message.verdict);
    if (message.kind === 'loaders') return loaders.put(message.loaders);
    if (message.kind === 'tls') {
      try {
        for (const server of withTls) server.setSecureContext({ cert: message.options.cert, key: message.options.key });
      } catch (error) {
        log.error({ err: error }, 'the new certificate cannot be used, the old one stays');
      }
      return;
    }
    void listeners
      .close()
      .then(() => pumps.close())
      .then(() => app.close())
      .catch((error: unknown) => log.error({ err: error }, 'an HTTP thread did not stop cleanly'))
      .finally(() => say({ kind: 'stopped' }));
  });
  say({ kind: 'listening' });
}

const main = parentPort!;
run(workerData as ThreadData, main).catch((error: unknown) => {
  main.postMessage({ kind: 'failed', error: toCrossing(error), text: String(error instanceof Error ? error.stack : error) } satisfies FromThread);
});
