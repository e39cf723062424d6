// `rackseed render NODE --as bios|uefi|…`: what the servers would send this node, from the files as they stand; asks no daemon and changes nothing.
import { ip4FromNumber, parseMac, subnetContains, formatSubnet, type Ip4, type Mac } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import type { Generation } from '../boot/profile.ts';
import { quirkWords } from '../boot/quirks.ts';
import { nearest } from '../config/faults.ts';
import { readProfiles } from '../config/profiles.ts';
import { readSettings } from '../config/settings.ts';
import { planDhcp } from '../daemon/dhcp.ts';
import type { ServedSubnet } from '../dhcp/subnet.ts';
import { AppError, FaultsError } from '../errors.ts';
import { chosenSet } from '../loader-sets.ts';
import { MASKED, renderNode, type Rendered } from '../render.ts';
import { dhcpLines } from './dhcp-words.ts';
import { asksOf, MACHINES, type MachineKind, type RenderPart } from './render-machines.ts';
import { openStateDir, type StateDir } from './state-dir.ts';

export interface RenderOptions {
  readonly config?: string;
  readonly as: string;
  /** Of the node's cards; default: its first. */
  readonly mac?: string;
  /** The daemon's generation instead of the files. */
  readonly running?: boolean;
  /** This directory in place of the settings' one. */
  readonly profiles?: string;
  /** DHCP answers in hex, too. */
  readonly raw?: boolean;
  /** That part alone, with nothing around it. */
  readonly only?: RenderPart;
}

/** A ULID of the year 1970: no boot of any daemon has it. */
export const MADE_UP_BOOT = '0000000000MADEVPMADEVPMADE';

/** NODE_UNKNOWN, PROFILES_INVALID with every fault, STORE_UNUSABLE; CONFIG_INVALID where this machine's cards do not carry the settings, so that nothing would be sent. */
export async function renderCommand(name: string, options: RenderOptions): Promise<string> {
  if (!Object.hasOwn(MACHINES, options.as)) throw new AppError('USAGE', `--as ${options.as}: no such machine`, `one of ${Object.keys(MACHINES).join(', ')}`);
  const as = options.as as MachineKind;
  const settings = readSettings(options.config);
  const state = await openStateDir(settings);
  if (!state) throw new AppError('STORE_UNUSABLE', `${settings.stateDir} has no database yet: images and artifacts are not known without it`, 'start the daemon once: rackseed serve');
  try {
    const { generation, from } = await generationFor(options, settings.profilesDir, state);
    const node = findNode(generation, name);
    const mac = options.mac === undefined ? node.macs[0]! : parseMac(options.mac);
    if (mac === undefined || !node.macs.includes(mac)) throw new AppError('USAGE', `--mac ${options.mac}: ${node.name} has no such card`, `it has ${node.macs.join(', ')}`);
    const subnet = subnetOf(planDhcp(settings.dhcp, settings.file).subnets, node);
    const { ip, how } = await addressOf(node, mac, subnet, state);
    const { publicBase, fallbacks, port } = settings.http;
    const rendered = renderNode({
      generation,
      node,
      mac,
      asks: asksOf(as, mac, { ip, server: subnet.serverIp }),
      history: await state.boots.history(node.name),
      holdAfter: settings.holdAfter,
      seen: (await state.nodes.seen(node.name)) ?? {},
      loaders: chosenSet(state.loaders, node.loaders),
      subnet,
      ip,
      httpPort: port,
      ...(publicBase === undefined ? {} : { publicBase }),
      ...(fallbacks ? { fallbacks } : {}),
      bootId: MADE_UP_BOOT,
      now: Date.now(),
    });
    if (options.only) return partOf(rendered, options.only, node);
    const about = [`${node.name} (${mac}), profile ${node.profile}, as ${as}; from ${from}`, `subnet ${formatSubnet(subnet.subnet)}, mode ${subnet.mode}; address ${ip}: ${how}`, `made up here: the boot's id ${MADE_UP_BOOT}, the machine's UUID and the packets' xid`];
    return whole(rendered, about, options.raw === true);
  } finally {
    await state.close();
  }
}

async function generationFor({ running, profiles }: RenderOptions, profilesDir: string, state: StateDir): Promise<{ readonly generation: Generation; readonly from: string }> {
  if (running) {
    const last = await state.last();
    if (!last) throw new AppError('STORE_UNUSABLE', 'no generation has been running yet', 'without --running the files are taken');
    return { generation: last.generation, from: `the running generation ${last.generation.id.slice(0, 19)}` };
  }
  const dir = profiles ?? profilesDir;
  const { generation, faults } = await state.compile(await readProfiles(dir));
  if (!generation) throw new FaultsError('PROFILES_INVALID', faults);
  return { generation, from: `the files of ${dir}, generation ${generation.id.slice(0, 19)}` };
}

function findNode({ nodes, nodeByMac }: Generation, text: string): Node {
  const mac = parseMac(text);
  const name = Object.hasOwn(nodes, text) ? text : mac && nodeByMac[mac];
  if (name !== undefined && nodes[name]) return nodes[name];
  const near = nearest(text, Object.keys(nodes));
  throw new AppError('NODE_UNKNOWN', `no node ${text.slice(0, 80)}`, near ? `did you mean ${near}?` : 'nodes are listed in the profiles of boot-profiles/');
}

/** Where its address is, else the first one: what the daemon does with a machine on that link. */
function subnetOf(subnets: readonly ServedSubnet[], { name, ip }: Node): ServedSubnet {
  const subnet = subnets.find((one) => ip !== undefined && subnetContains(one.subnet, ip)) ?? subnets[0];
  if (!subnet) throw new AppError('CONFIG_INVALID', `rackseed.yaml serves no subnet, so ${name} is sent nothing`, 'dhcp.interfaces or dhcp.subnets say what is served (docs/SETTINGS.md)');
  return subnet;
}

async function addressOf(node: Node, mac: Mac, subnet: ServedSubnet, state: StateDir): Promise<{ readonly ip: Ip4; readonly how: string }> {
  if (node.ip && subnetContains(subnet.subnet, node.ip)) return { ip: node.ip, how: subnet.mode === 'full' ? 'its own' : 'its own, as another server should give it' };
  const lease = (await state.leases.list(formatSubnet(subnet.subnet))).find(({ holder, mac: card }) => holder === node.name || card === mac);
  if (lease) return { ip: lease.ip, how: 'its lease' };
  const first = subnet.pools[0]?.ranges[0]?.first;
  return { ip: ip4FromNumber(first ?? subnet.subnet.network + 1), how: first === undefined ? 'made up, another server gives it' : 'made up, the first of the pool' };
}

const NOTHING = 'nothing of ours boots on it: its profile, its next start or a hold says so';

function partOf(rendered: Rendered, part: RenderPart, { name }: Node): string {
  const text = part === 'dhcp' ? dhcpText(rendered, true) : part === 'script' ? rendered.script?.text : part === 'config' ? rendered.config : rendered.facts && factsText(rendered);
  if (text === undefined) throw new AppError('BOOT_UNKNOWN', `${name} is sent no ${part}`, NOTHING);
  return text;
}

function whole(rendered: Rendered, about: readonly string[], raw: boolean): string {
  const { quirks, script, config, facts } = rendered;
  const section = (title: string, text: string): string => `== ${title}\n${text}`;
  const secret = config?.includes(`ssh-host-key ${MASKED}\n`) ? ', the ssh host key masked' : '';
  return [
    `${about.map((line) => `# ${line}\n`).join('')}${quirks.map((quirk) => `# quirk ${quirkWords(quirk)}\n`).join('')}`,
    section('DHCP', dhcpText(rendered, raw)),
    ...(script?.before === undefined ? [] : [section('grub/grub.cfg, the same for all', script.before)]),
    ...(script ? [section(script.file === 'script' ? 'iPXE script' : 'grub.cfg of the node', script.text)] : []),
    ...(config === undefined ? [section('config and facts', `${NOTHING}\n`)] : [section(`config (GET /boots/ID/config${secret})`, config)]),
    ...(facts === undefined ? [] : [section(`facts (GET /boots/ID/facts${Object.values(facts.vars).includes(MASKED) ? ', variables that are called secret masked' : ''})`, factsText(rendered))]),
  ].join('\n');
}

function dhcpText({ dhcp }: Rendered, raw: boolean): string {
  return dhcp
    .map(({ what, packet, bytes, why }) => `${what}${packet ? '' : `: no packet: ${why}`}\n${packet ? dhcpLines(packet).map((line) => `  ${line}\n`).join('') : ''}${raw && bytes ? `  hex ${Buffer.from(bytes).toString('hex')}\n` : ''}`)
    .join('');
}

/** As the HTTP server spells it. */
function factsText({ facts }: Rendered): string {
  return `${JSON.stringify(facts, null, 2)}\n`;
}
