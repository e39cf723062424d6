// The composition root: builds every part once, starts them, stops them in reverse.
import { basename } from 'node:path';
import { apiRoutes, type Reason } from './http/api.ts';
import { startFront } from './http/front.ts';
import { createHttp, listenOn, listenOnSocket } from './http/server.ts';
import { createAdmission } from './boot/admission.ts';
import { nodeWithCard, reservedFor } from './boot/directory.ts';
import { isHeld } from './boot/hold.ts';
import { BUILT_IN_SET } from './boot/loader-set.ts';
import type { Generation } from './boot/profile.ts';
import { createBooter } from './booter.ts';
import { servesUnlisted } from './config/dhcp-settings.ts';
import { createGenerations, type Swap } from './config/generations.ts';
import { planned, type PlanAnswer } from './config/planned.ts';
import { compile, readProfiles, type ProfileFile } from './config/profiles.ts';
import { troubleLine } from './loader-sets.ts';
import { createResolver } from './config/resolver.ts';
import type { Settings } from './config/settings.ts';
import { watchProfiles } from './config/watch.ts';
import { startBlobs } from './daemon/blobs.ts';
import { openCertificate } from './daemon/certificate.ts';
import { openDhcpSockets, planDhcp, startDhcp } from './daemon/dhcp.ts';
import { startLoaders } from './daemon/loaders.ts';
import { makeStateDir, openState } from './daemon/state.ts';
import { blockSizeFor, tftpPlaces } from './daemon/tftp.ts';
import { digestOfValue } from './digest.ts';
import { createDiscovered } from './discovered.ts';
import { createDrift } from './drift.ts';
import { formatFault } from './errors.ts';
import { refusedReload } from './history.ts';
import { createImageStore } from './images/manifest.ts';
import type { Log } from './log.ts';
import { createMetrics, type TftpFigures } from './metrics.ts';
import { SHIPPED } from './shipped.ts';
import { createRepos } from './postboot/repos.ts';
import { becomeUser } from './privileges.ts';
import { createBlobStore } from './store/blobs.ts';
import type { NodeHistory } from './store/boot-rows.ts';
import { createHostKeys } from './store/host-keys.ts';
import type { EventStore } from './store/events.ts';
import { createVerdictStore } from './store/verdicts.ts';
import { createFileCache } from './tftp/file-cache.ts';
import { bootFiles } from './tftp/files.ts';
import { createTftpServer } from './tftp/server.ts';
import { bindTftp } from './tftp/sockets.ts';

/** Goes up when a generation gets other members: a stored one of another version is then compiled anew. */
const GENERATION_FORMAT = 4;

export interface Daemon {
  reload(who: string): Promise<void>;
  stop(): Promise<void>;
}

/** Starts everything that the settings name; an AppError when a part cannot start, and then nothing is left running. */
export async function startDaemon(settings: Settings, log: Log): Promise<Daemon> {
  const now = Date.now;
  const stops: (() => unknown)[] = [];
  const stop = async (): Promise<void> => {
    for (const end of stops.reverse().splice(0)) {
      try {
        await end();
      } catch (error) {
        // What follows must be stopped all the same, the database last of all.
        log.error({ err: error }, 'a part did not stop cleanly');
      }
    }
  };
  try {
    const parts = await assemble(settings, log, now, stops);
    return { reload: async (who) => void (await parts.reload(who)), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function assemble(settings: Settings, log: Log, now: () => number, stops: (() => unknown)[]) {
  const { stateDir, dhcp } = settings;
  const plan = planDhcp(dhcp, settings.file);
  makeStateDir(stateDir);
  // Root, if we are it, only binds: nothing that a stranger sends and nothing that the user can write is read as root.
  let events: EventStore | undefined;
  const sockets = await openDhcpSockets(plan, dhcp, { onEvent: (event) => void events?.add(event).catch((error: unknown) => log.error({ err: error }, 'event not recorded')), log }, stops);
  const tftpSockets = settings.tftp.enabled ? await bindTftp(tftpPlaces(settings.tftp, plan, dhcp.serve, settings.file)) : undefined;
  if (tftpSockets) stops.push(() => tftpSockets.close());
  // Its key may be root's alone.
  const certificate = settings.http.tls && openCertificate(settings.http.tls, log, now);
  becomeUser(settings.user, { stateDir, log });

  const state = openState(stateDir, log, now, stops);
  const { database, nodes, leases, boots, artifacts } = state;
  events = state.events;
  const discovered = createDiscovered();
  // Its directories are made, and what somebody left half-written is removed.
  createBlobStore(stateDir);
  const images = createImageStore(stateDir);
  const served = await startBlobs({ stateDir, ...settings.blobs, events, kept: createVerdictStore(database), log, now }, stops);

  const repos = createRepos({ stateDir, shippedDir: SHIPPED.postBoot, repos: settings.repos, log, now });
  await repos.start();
  stops.push(() => repos.stop());

  const loaders = await startLoaders({ ...settings.loaders, stateDir, file: settings.file, events, log, now });
  const resolver = createResolver({ images, artifacts, repos, loaders: loaders.names });
  let renewLoaders: (() => void) | undefined;
  const upstreams = Object.keys(settings.repos);
  /** What is down stays as it was mirrored last; `/readyz` says so. */
  const refresh = () => Promise.allSettled(upstreams.map((name) => repos.refresh(name)));
  const generations = createGenerations<readonly ProfileFile[]>({
    last: await nodes.lastGeneration(),
    read: () => readProfiles(settings.profilesDir),
    digest: (files) => digestOfValue([GENERATION_FORMAT, dhcp.subnets, ...(settings.loaders.default === BUILT_IN_SET ? [] : [settings.loaders.default]), files.map(({ file, text }) => [basename(file), text])]),
    compile: async (files) => {
      const unread = await loaders.readAgain();
      if (unread.length > 0) return { faults: unread };
      const compiled = await compile(files, resolver, dhcp.subnets, servesUnlisted(dhcp));
      if (compiled.generation || upstreams.length === 0) return compiled;
      // An edit may name a tag that was pushed a moment ago.
      await refresh();
      return compile(files, resolver, dhcp.subnets, servesUnlisted(dhcp));
    },
    prepare: async (next, who, source) => {
      for (const { postBoot } of Object.values(next.bootSets)) if (postBoot) await repos.pin(postBoot.repo, postBoot.commit);
      await nodes.assign(next, who, now(), source);
      if (loaders.take()) renewLoaders?.();
      await dropUnusedPins(next).catch((error: unknown) => log.error({ err: error }, 'unused pins not removed'));
    },
    onRefused: (faults, who) => void state.events.add(refusedReload(faults, who, now())).catch((error: unknown) => log.error({ err: error }, 'event not recorded')),
    log,
  });
  /** A pin stays while the next generation, the current one or a boot set in use needs its commit. */
  const dropUnusedPins = async (next: Generation): Promise<void> => {
    const needed = [...Object.values(next.bootSets), ...Object.values(generations.current().bootSets), ...(await boots.bootSetsInUse())].flatMap(({ postBoot }) => postBoot ?? []);
    for (const { name } of repos.status()) await repos.unpinExcept(name, new Set(needed.filter((ref) => ref.repo === name).map((ref) => ref.commit)));
  };
  // Watched before it is read: an edit in between would else be missed until the next one.
  if (settings.reload === 'auto') {
    const watcher = watchProfiles(settings.profilesDir, () => void generations.reload('edit').catch(() => undefined));
    stops.push(() => watcher.close());
  }
  await generations.start();

  const admission = createAdmission(settings.http.maxStreams);
  const steady = () => performance.now();
  const booter = createBooter({ generation: generations.current, nodes, leases, boots, events, discovered, admission, loaders: loaders.of, serveAt: plan.serveAt, holdAfter: settings.holdAfter, log, now, steady });
  const listen = settings.http.listen ?? plan.serverIps;
  const { port, threads, tls, publicBase, fallbacks } = settings.http;
  const front = await startFront({
    listen,
    port,
    ...(tls && certificate ? { tls: { port: tls.port, ...certificate.pair } } : {}),
    ...(threads === undefined ? {} : { threads }),
    stateDir,
    cacheBytes: settings.http.cacheBytes,
    ...(publicBase === undefined ? {} : { publicBase }),
    ...(fallbacks ? { fallbacks } : {}),
    booter,
    loaders: loaders.shelf,
    repos,
    onRotten: served.onRotten,
    verdicts: served.verdicts,
    log,
  });
  stops.push(() => front.stop());
  renewLoaders = front.renewLoaders;

  const reasons = (): Reason[] => [
    ...(certificate?.troubles() ?? []).map((what) => ({ what, fatal: false })),
    ...loaders.current().troubles.map((trouble) => ({ what: troubleLine(trouble), fatal: false })),
    ...running.reasons().map((what) => ({ what, fatal: false })),
    ...generations.faults().map((fault) => ({ what: formatFault(fault), fatal: Object.keys(generations.current().nodes).length === 0 })),
    ...repos.status().filter((repo) => repo.stale).map((repo) => ({ what: `repository ${repo.name} is stale: ${repo.error ?? 'its upstream does not answer'}`, fatal: false })),
  ];
  /** Asked for by a person: refs are to mean what they mean upstream now. */
  const reload = async (who: string): Promise<Swap> => {
    await refresh();
    const renewed = certificate?.renew();
    if (renewed) front.setTls(renewed);
    return generations.reload(who);
  };
  /** What a reload would do with these files, or with those that stand there. */
  const planReload = async (given?: readonly ProfileFile[]): Promise<PlanAnswer> => {
    await refresh();
    const { source: files = [], compiled } = await generations.preview(given);
    return planned({ from: generations.current(), fromFiles: generations.source(), compiled, files, boots });
  };

  const running = await startDhcp(
    {
      plan,
      dhcp,
      sockets,
      httpPort: settings.http.port,
      booter,
      leases,
      database,
      events,
      nodeOf: (mac) => nodeWithCard(generations.current(), mac),
      reserved: (ip) => reservedFor(generations.current(), ip),
      log,
      now,
    },
    stops,
  );
  let tftpFigures: (() => TftpFigures) | undefined;
  if (tftpSockets) {
    const tftp = createTftpServer({ sockets: tftpSockets, files: bootFiles({ loaders: loaders.shelf, booter, ...(publicBase === undefined ? {} : { publicBase }), cache: createFileCache(served.verified), httpPort: settings.http.port }), booter, blockSizeFor, log });
    stops.push(() => tftp.stop());
    tftp.start();
    tftpFigures = tftp.counters;
  }
  const heldNodes = async (): Promise<number> => {
    const { nodes: known, profiles } = generations.current();
    const failing = settings.holdAfter === 0 ? new Map<string, NodeHistory>() : await boots.failing(settings.holdAfter);
    return [...failing].filter(([name, history]) => known[name] && isHeld(history, profiles[known[name].profile]?.bootSet, settings.holdAfter)).length;
  };
  const drift = createDrift({ generation: generations.current, boots });
  const metrics = createMetrics({ http: front.figures, tftp: () => tftpFigures?.(), blobs: served.figures, dhcp: running.admin.status, leases: () => running.ledger.size, images: () => admission.figures(steady()), heldNodes, drift: drift.figures });
  const hostKeys = createHostKeys(stateDir);
  // Last, so that /readyz speaks for all that machines need.
  const people = () => createHttp('people', log, (app) => apiRoutes(app, { generation: generations.current, reload, plan: planReload, reasons, nodes, boots, events: state.events, holdAfter: settings.holdAfter, now, artifacts, discovered, loaders: loaders.current, leases: running.ledger, dhcp: running.admin, metrics, hostKeys, drift }));
  const onSocket = await people();
  stops.push(() => onSocket.close());
  await listenOnSocket(onSocket, settings.api.socket);
  if (settings.api.port > 0) {
    const onLoopback = await people();
    stops.push(() => onLoopback.close());
    await listenOn([{ app: onLoopback, host: '127.0.0.1', port: settings.api.port }]);
  }
  log.info({ stateDir, generation: generations.current().id, dhcp: plan.links, http: listen, api: settings.api.socket }, 'rackseed is up');
  return { reload };
}
