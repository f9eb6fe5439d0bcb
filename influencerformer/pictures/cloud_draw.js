// Draws points: with WebGL 2 where there is one, else on a plain canvas. Both shade by depth (eye-dome lighting,
// C. Boucheny, thesis, Grenoble 2009): exp(-strength * mean over neighbours of max(0, log2 d - log2 d_neighbour)).

const LENS = 1 / Math.tan((35 / 2) * (Math.PI / 180)); // 35 degrees from top to bottom
const EDGE_STRENGTH = 20;
const FINE = 0.6, COARSE = 0.4; // weights of the nearer and the farther ring of neighbours
const DARKEST = 0.3;
const NEIGHBOURS = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]];

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

// What both renderers and the picking of points need to know of a view on `width` x `height` pixels.
function makeFrame(cloud, camera, width, height, pointScale, top, openFront) {
  const out = [Math.cos(camera.azimuth), Math.sin(camera.azimuth)];
  const right = [-out[1], out[0], 0];
  const level = Math.cos(camera.elevation), towards = [level * out[0], level * out[1], Math.sin(camera.elevation)];
  const far = camera.distance + dot(camera.target, towards) + 1.1 * cloud.radius;
  const reach = 1e6 * cloud.radius;
  const [left, east, south, north] = cloud.sides;
  return {
    cloud, width, height, right, towards, up: cross(towards, right), target: camera.target, distance: camera.distance,
    lens: [(LENS * height) / width, LENS], near: 0.01 * cloud.radius, far: Math.max(far, 0.1 * cloud.radius), top,
    size: 1.7 * cloud.spacing * pointScale * LENS * height / 2, edge: Math.max(1, height / 700),
    limits: [
      openFront && towards[0] < -0.1 ? left : -reach, openFront && towards[0] > 0.1 ? east : reach,
      openFront && towards[1] < -0.1 ? south : -reach, openFront && towards[1] > 0.1 ? north : reach,
    ],
  };
}

// Calls visit(index, x, y, depth) for every point that is shown, in pixels from the top left.
function eachPoint(frame, visit) {
  const { right, up, towards, target, distance, near, top, limits, width, height, lens } = frame;
  const xyz = frame.cloud.xyz, scale = frame.cloud.scale;
  for (let i = 0, at = 0; at < xyz.length; i++, at += 3) {
    const x = xyz[at] * scale, y = xyz[at + 1] * scale, z = xyz[at + 2] * scale;
    if (z > top || x < limits[0] || x > limits[1] || y < limits[2] || y > limits[3]) continue;
    const dx = x - target[0], dy = y - target[1], dz = z - target[2];
    const depth = distance - (dx * towards[0] + dy * towards[1] + dz * towards[2]);
    if (depth < near) continue;
    const across = (lens[0] * (dx * right[0] + dy * right[1])) / depth;
    const along = (lens[1] * (dx * up[0] + dy * up[1] + dz * up[2])) / depth;
    visit(i, ((1 + across) * width) / 2, ((1 - along) * height) / 2, depth);
  }
}

// The point under a place on the screen, -1 if there is none: the nearest of those within its disc or a few pixels.
function pick(frame, x, y) {
  let found = -1, least = Infinity;
  eachPoint(frame, (i, px, py, depth) => {
    const radius = Math.max(4, frame.size / depth / 2);
    if (depth < least && (px - x) ** 2 + (py - y) ** 2 <= radius * radius) {
      found = i;
      least = depth;
    }
  });
  return found;
}

// Moves a camera so that what is shown fills `width` x `height`: its target and distance.
function fit(frame) {
  const { cloud, right, up, towards, width, height } = frame, [wide, tall] = [(LENS * height) / width, LENS];
  let { target } = frame, distance = 0;
  for (let round = 0; round < 3; round++) {
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    const centred = { ...frame, target, distance: 1e3 * cloud.radius, near: 0 }, away = [];
    eachPoint(centred, (i) => {
      const from = [0, 1, 2].map((axis) => cloud.xyz[3 * i + axis] * cloud.scale - target[axis]);
      away.push([dot(from, right), dot(from, up), dot(from, towards)]);
    });
    if (!away.length) return { target, distance: 3 * cloud.radius };
    const needed = ([x, y, z]) => z + 1.04 * Math.max(wide * Math.abs(x), tall * Math.abs(y));
    distance = away.reduce((most, place) => Math.max(most, needed(place)), 0);
    for (const [x, y, z] of away) {
      [x, y].forEach((part, axis) => {
        low[axis] = Math.min(low[axis], part / (distance - z));
        high[axis] = Math.max(high[axis], part / (distance - z));
      });
    }
    const [x, y] = [0, 1].map((axis) => ((low[axis] + high[axis]) / 2) * distance);
    target = target.map((part, axis) => part + x * right[axis] + y * up[axis]);
  }
  return { target, distance };
}

const POINT_VERTEX = `#version 300 es
in vec3 place;
in vec3 colour;
uniform mat3 axes;
uniform vec3 target;
uniform vec2 lens;
uniform vec4 range; // near, far, distance of the camera, height of the cut
uniform vec4 limits;
uniform float scale, size;
out vec3 tint;
void main() {
  vec3 p = place * scale;
  vec3 v = (p - target) * axes;
  float depth = range.z - v.z;
  bool hidden = p.z > range.w || p.x < limits.x || p.x > limits.y || p.y < limits.z || p.y > limits.w;
  tint = colour;
  if (hidden || depth < range.x) {
    gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
    gl_PointSize = 1.0;
    return;
  }
  float spread = range.y - range.x;
  gl_Position = vec4(lens * v.xy, ((range.y + range.x) * depth - 2.0 * range.y * range.x) / spread, depth);
  gl_PointSize = clamp(size / depth, 1.5, 64.0);
}`;

const POINT_FRAGMENT = `#version 300 es
precision mediump float;
in vec3 tint;
out vec4 result;
void main() {
  vec2 from = gl_PointCoord - 0.5;
  if (dot(from, from) > 0.25) discard;
  result = vec4(tint, 1.0);
}`;

const SHADE_VERTEX = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }`;

const SHADE_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D colours;
uniform highp sampler2D depths;
uniform vec2 range; // near, far
uniform float edge;
out vec4 result;
float distanceAt(ivec2 at) {
  float z = texelFetch(depths, clamp(at, ivec2(0), textureSize(depths, 0) - 1), 0).r;
  return z >= 1.0 ? 1e9 : range.x * range.y / (range.y - z * (range.y - range.x));
}
float behind(ivec2 at, float own, float reach) {
  float sum = 0.0;
  for (int i = 0; i < 8; i++) {
    float angle = float(i) * 0.78539816;
    sum += max(0.0, own - log2(distanceAt(at + ivec2(round(reach * vec2(cos(angle), sin(angle)))))));
  }
  return sum / 8.0;
}
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  vec4 colour = texelFetch(colours, at, 0);
  if (colour.a == 0.0) discard;
  float own = log2(distanceAt(at));
  float response = ${FINE} * behind(at, own, edge) + ${COARSE} * behind(at, own, 3.0 * edge);
  result = vec4(colour.rgb * (${DARKEST} + ${1 - DARKEST} * exp(-float(${EDGE_STRENGTH}) * response)), 1.0);
}`;

class WebGLRenderer {
  constructor(canvas) {
    // Where WebGL is imitated in software, CanvasRenderer is faster.
    const wishes = { antialias: false, depth: false, failIfMajorPerformanceCaveat: true };
    const gl = (this.gl = canvas.getContext("webgl2", wishes));
    if (!gl) throw new Error("no WebGL 2");
    this.points = this.program(POINT_VERTEX, POINT_FRAGMENT);
    this.shade = this.program(SHADE_VERTEX, SHADE_FRAGMENT);
    this.places = gl.createBuffer();
    this.tints = gl.createBuffer();
    this.array = gl.createVertexArray();
    this.target = gl.createFramebuffer();
    gl.bindVertexArray(this.array);
    this.attribute("place", this.places, gl.SHORT, false);
    this.attribute("colour", this.tints, gl.UNSIGNED_BYTE, true);
  }

  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    return { id: program, at: (name) => gl.getUniformLocation(program, name) };
  }

  attribute(name, buffer, type, normalised) {
    const gl = this.gl, at = gl.getAttribLocation(this.points.id, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 3, type, normalised, 0, 0);
  }

  fill(buffer, values) {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, buffer);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, values, this.gl.STATIC_DRAW);
  }

  setCloud(cloud) { this.fill(this.places, cloud.xyz); }

  setColours(rgb) { this.fill(this.tints, rgb); }

  resize(width, height) {
    const gl = this.gl;
    if (this.width === width && this.height === height) return;
    [this.width, this.height] = [width, height];
    gl.deleteTexture(this.colourTexture);
    gl.deleteTexture(this.depthTexture);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    const texture = (format, attachment) => {
      const made = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, made);
      gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, attachment, gl.TEXTURE_2D, made, 0);
      return made;
    };
    this.colourTexture = texture(gl.RGBA8, gl.COLOR_ATTACHMENT0);
    this.depthTexture = texture(gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT);
  }

  draw(frame) {
    const gl = this.gl;
    this.resize(frame.width, frame.height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.viewport(0, 0, frame.width, frame.height);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.points.id);
    const at = this.points.at;
    gl.uniformMatrix3fv(at("axes"), false, [...frame.right, ...frame.up, ...frame.towards]);
    gl.uniform3fv(at("target"), frame.target);
    gl.uniform2fv(at("lens"), frame.lens);
    gl.uniform4f(at("range"), frame.near, frame.far, frame.distance, frame.top);
    gl.uniform4fv(at("limits"), frame.limits);
    gl.uniform1f(at("scale"), frame.cloud.scale);
    gl.uniform1f(at("size"), frame.size);
    gl.drawArrays(gl.POINTS, 0, frame.cloud.xyz.length / 3);

    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.shade.id);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.colourTexture);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.depthTexture);
    gl.uniform1i(this.shade.at("colours"), 0);
    gl.uniform1i(this.shade.at("depths"), 1);
    gl.uniform2f(this.shade.at("range"), frame.near, frame.far);
    gl.uniform1f(this.shade.at("edge"), frame.edge);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

class CanvasRenderer {
  constructor(canvas) { this.context = canvas.getContext("2d"); }

  setCloud() {}

  setColours(rgb) { this.rgb = rgb; }

  draw(frame) {
    const { width, height } = frame, rgb = this.rgb;
    const fine = Math.round(frame.edge), coarse = Math.round(3 * frame.edge);
    // An empty border, so that no neighbour of a pixel lies outside.
    const stride = width + 2 * coarse, start = coarse * stride + coarse;
    const nearest = new Float32Array(stride * (height + 2 * coarse)).fill(Infinity);
    const owner = new Int32Array(nearest.length);
    eachPoint(frame, (i, x, y, depth) => {
      const radius = Math.min(32, Math.max(0.75, frame.size / depth / 2));
      for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(height - 1, y + radius); row++) {
        const half = Math.sqrt(radius * radius - (row - y) ** 2), line = start + row * stride;
        const end = line + Math.min(width - 1, x + half);
        for (let at = line + Math.max(0, Math.ceil(x - half)); at <= end; at++) {
          if (depth < nearest[at]) {
            nearest[at] = depth;
            owner[at] = i;
          }
        }
      }
    });
    const logs = nearest.map(Math.log2), picture = this.context.createImageData(width, height), out = picture.data;
    const ring = (reach) => NEIGHBOURS.map(([x, y]) => reach * (y * stride + x));
    const steps = Int32Array.from([...ring(fine), ...ring(coarse)]);
    for (let row = 0, to = 0; row < height; row++) {
      for (let at = start + row * stride, end = at + width; at < end; at++, to += 4) {
        const own = logs[at];
        if (own === Infinity) continue;
        let response = 0;
        for (let step = 0; step < 16; step++) {
          const behind = own - logs[at + steps[step]];
          if (behind > 0) response += step < 8 ? FINE * behind : COARSE * behind;
        }
        const bright = DARKEST + (1 - DARKEST) * Math.exp((-EDGE_STRENGTH / 8) * response), from = 3 * owner[at];
        out[to] = rgb[from] * bright;
        out[to + 1] = rgb[from + 1] * bright;
        out[to + 2] = rgb[from + 2] * bright;
        out[to + 3] = 255;
      }
    }
    this.context.putImageData(picture, 0, 0);
  }
}

function makeRenderer(canvas) {
  try {
    return new WebGLRenderer(canvas);
  } catch {
    // A canvas that has once given a WebGL context gives no other.
    const plain = canvas.cloneNode();
    canvas.replaceWith(plain);
    return new CanvasRenderer(plain);
  }
}
